// The page: reads the run once, draws the route that the address names, and keeps up with a run that is running.

const run = { source: null, overview: null, view: { kind: "none", route: {} } };
const POLL_MS = 5000;

/** The address as a route. Anything unknown is a route of its own, with words. */
function routeOf(hash) {
  const [path, query = ""] = hash.replace(/^#\/?/, "").split(/\?(.*)/s);
  const parts = path.split("/").filter(Boolean).map(decoded);
  const base = { query: new URLSearchParams(query), hash };
  const round = parseInt(parts[1], 10);
  if (!parts.length) return { ...base, kind: "overview" };
  if (parts[0] === "samples" && parts.length === 1) return { ...base, kind: "samples" };
  if (parts[0] === "group" && parts.length === 3 && Number.isInteger(round)) return { ...base, kind: "group", round, prompt: parts[2] };
  const sample = parseInt(parts[3], 10), step = parts[4] === "step" ? parseInt(parts[5], 10) : null;
  if (parts[0] === "sample" && (parts.length === 4 || parts.length === 6) && [round, sample, step ?? 0].every(Number.isInteger)) {
    return { ...base, kind: "sample", round, prompt: parts[2], sample, step };
  }
  return { ...base, kind: "unknown" };
}

function decoded(part) {
  try {
    return decodeURIComponent(part);
  } catch {
    return part;
  }
}

const VIEWS = { overview: overviewView, samples: listView, group: groupView, sample: sampleView, unknown: unknownView };

function unknownView(route) {
  throw new RunError(
    `There is no page at ${visible(decoded(route.hash))}.`,
    "Links look like #/, #/samples, #/group/ROUND/PROMPT, #/sample/ROUND/PROMPT/NUMBER and #/sample/ROUND/PROMPT/NUMBER/step/STEP.",
    "Start from the overview.",
  );
}

/** Draw what the address names, and put the focus where reading goes on. */
async function go() {
  const route = routeOf(location.hash);
  const before = run.view;
  if (isSameSample(before, route)) return afterStep(route);
  if (before.leave) before.leave();
  const view = { kind: route.kind, route, from: before.kind };
  run.view = view;
  document.body.dataset.view = route.kind;
  const slow = setTimeout(() => replace(byId("main"), h("p", { class: "loading", id: "searching" }, "Loading …")), 150);
  let drawn;
  try {
    drawn = await VIEWS[route.kind](route);
  } catch (error) {
    drawn = { page: h("div", null, h("h1", { class: "unseen", tabindex: "-1" }, "A problem"), problemBox(error)), title: "A problem" };
  }
  clearTimeout(slow);
  if (run.view !== view) return;
  Object.assign(view, drawn);
  replace(byId("main"), drawn.page);
  document.title = `${drawn.title} – ${visible(run.overview.run.name)}`;
  drawHeader();
  placeFocus(drawn, before.kind === "none");
  document.body.dataset.drawn = route.hash || "#/";
}

const isSameSample = (view, route) =>
  view.kind === "sample" && route.kind === "sample" && view.sample && isKnown(route.step) && view.sample.steps[route.step] &&
  ["round", "prompt", "sample"].every((name) => view.route[name] === route[name]);

function afterStep(route) {
  focusStep(route.step);
  document.body.dataset.drawn = route.hash;
}

function placeFocus(drawn, isFirst) {
  const wanted = (drawn.focus && drawn.focus()) || null;
  if (run.focusSearch && byId("pick-text")) {
    run.focusSearch = false;
    return byId("pick-text").focus();
  }
  if (!wanted) window.scrollTo(0, 0);
  if (isFirst && !wanted) return;
  const target = wanted || byId("main").querySelector("h1");
  target.focus({ preventScroll: true });
  if (wanted) wanted.scrollIntoView({ block: wanted.matches("section") ? "start" : "center" });
}

function drawHeader() {
  const { name, state, why, heartbeat, directory, made_with } = run.overview.run;
  const kind = run.view.kind;
  const link = (href, text, kinds) => h("a", { href, "aria-current": kinds.includes(kind) ? "page" : null }, text);
  replace(
    byId("top"),
    h("div", { class: "name" }, h("strong", { title: [directory, made_with].filter(Boolean).map(visible).join(" · ") }, snippet(name, 60)), " ",
      h("span", { class: `state ${state}` }, STATE_WORDS[state] || plain(state)),
      isKnown(heartbeat) && h("span", { class: "soft small" }, ` last heard from ${clock(heartbeat)}`)),
    h("nav", { "aria-label": "Pages" }, link("#/", "Overview", ["overview"]), link(walk.hash, "Samples", ["samples", "sample", "group"]),
      h("button", { type: "button", class: "small", "aria-label": "Keys and letters", onclick: () => byId("help").showModal() }, "?")),
  );
  const notices = [why ? `The run ${STATE_WORDS[state] || state}: ${why}` : null, ...run.overview.notices, ...run.source.leftOut, run.lost || null].filter(Boolean);
  replace(byId("notices"), notices.length > 0 && h("ul", { class: "notices" }, notices.map((text) => h("li", null, prose(text)))));
}

/** While the run is running, look again; draw anew only what changed, and leave scroll and focus alone. */
async function poll() {
  if (run.source.mode !== "server" || run.overview.run.state !== "running") return;
  await new Promise((resolve) => setTimeout(resolve, POLL_MS));
  try {
    takeOverview(await run.source.overview());
  } catch (error) {
    run.lost = `${error.problem || error.message} What you see may be out of date.`;
    drawHeader();
  }
  poll();
}

function takeOverview(overview) {
  const before = run.overview;
  const isNew = JSON.stringify({ ...overview, run: { ...overview.run, heartbeat: 0 } }) !== JSON.stringify({ ...before, run: { ...before.run, heartbeat: 0 } });
  run.overview = overview;
  run.lost = null;
  if (isNew) {
    forgetUnfinished(before);
    if (run.view.kind === "overview") redrawOverview();
    if (run.view.list) loadList(run.view.list);
  }
  drawHeader();
}

function redrawOverview() {
  const top = window.scrollY, focused = document.activeElement ? document.activeElement.id : "";
  replace(byId("main"), overviewView(run.view.route).page);
  window.scrollTo(0, top);
  if (focused && byId(focused)) byId(focused).focus({ preventScroll: true });
}

async function start() {
  append(document.body, helpDialog());
  document.querySelector(".skip").addEventListener("click", (event) => {
    event.preventDefault(); // the address is the route, not an anchor
    byId("main").focus();
  });
  try {
    run.source = await openSource();
    run.overview = await run.source.overview();
  } catch (error) {
    replace(byId("main"), h("h1", null, "This run cannot be shown"), problemBox(error));
    document.body.dataset.drawn = "failed";
    return;
  }
  window.addEventListener("hashchange", go);
  window.addEventListener("keydown", onKey);
  drawLabelsBar();
  await go();
  poll();
}

start();
