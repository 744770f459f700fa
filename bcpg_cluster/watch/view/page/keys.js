// The keyboard: one table, which the help shows and the listener obeys.

const KEYS = [
  ["?", "Show these keys"],
  ["o", "Overview"],
  ["s", "Samples"],
  ["/", "Search questions and answers"],
  ["j  k", "Next, previous sample (in the list and in a sample)"],
  ["n  p", "Next, previous page of the list"],
  ["Enter", "Open the sample"],
  ["→  ←", "Next, previous step of a sample; next, previous token inside the tokens"],
  ["g", "The group of a sample, side by side"],
  ["1  0  c", "Label the step in focus: right, wrong, clear"],
  ["Esc", "Back: step, sample, list, overview; from a group to the sample it was opened from"],
];

function onKey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || event.defaultPrevented) return;
  if (byId("help").open) return;
  const target = event.target;
  const isTyping = target instanceof HTMLElement && target.matches("input[type=search], input[type=text], select, textarea");
  if (isTyping) return void (event.key === "Escape" && target.blur());
  const act = (GLOBAL_KEYS[event.key] || (VIEW_KEYS[run.view.kind] || {})[event.key]);
  if (act && act(event) !== false) event.preventDefault();
}

const GLOBAL_KEYS = {
  "?": () => byId("help").showModal(),
  o: () => (location.hash = "#/"),
  s: () => (location.hash = walk.hash),
  "/": () => searchNow(),
  Escape: () => goUp(),
};

const VIEW_KEYS = {
  samples: { j: () => moveRow(1), k: () => moveRow(-1), n: () => clickOn("[data-turn=on]"), p: () => clickOn("[data-turn=back]") },
  sample: {
    j: () => clickOn("[rel=next]"), k: () => clickOn("[rel=prev]"),
    ArrowRight: () => moveStep(1), ArrowLeft: () => moveStep(-1),
    g: () => (location.hash = groupLink(run.view.sample.round, run.view.sample.prompt_id)),
    1: () => pressLabel("right"), 0: () => pressLabel("wrong"), c: () => pressLabel("clear"),
  },
  group: { j: () => moveRow(1), k: () => moveRow(-1) },
};

function clickOn(selector) {
  const found = byId("main").querySelector(selector);
  if (!found || found.disabled) return false;
  found.click();
  return true;
}

function searchNow() {
  const box = byId("pick-text");
  if (box) return box.focus();
  run.focusSearch = true;
  location.hash = walk.hash;
}

function moveRow(by) {
  const links = [...byId("main").querySelectorAll("[data-row]")];
  const at = links.indexOf(document.activeElement);
  const next = links[at < 0 ? 0 : at + by];
  if (!next) return void say(by > 0 ? "The last on this page." : "The first on this page.");
  next.focus();
  next.scrollIntoView({ block: "nearest" });
}

function moveStep(by) {
  const { sample, route } = run.view;
  if (!sample || !sample.steps.length) return false;
  const at = isKnown(route.step) ? route.step + by : by > 0 ? 0 : sample.steps.length - 1;
  if (at < 0 || at >= sample.steps.length) return void say(by > 0 ? "The last step." : "The first step.");
  history.replaceState(null, "", sampleLink(sample.round, sample.prompt_id, sample.sample, at));
  focusStep(at);
}

/** Another step of the sample that is already drawn. */
function focusStep(index) {
  run.view.route.step = index;
  for (const row of document.querySelectorAll(".step.focused")) row.classList.remove("focused");
  const row = byId(`step-${index}`);
  row.classList.add("focused");
  row.focus({ preventScroll: true });
  row.scrollIntoView({ block: "center" });
}

function pressLabel(name) {
  const row = document.activeElement && document.activeElement.closest("[data-step]");
  const button = row && row.querySelector(`[data-label=${name}]`);
  if (!button) return say("Choose a step first, with → or by its link.");
  button.focus();
  button.click();
}

function goUp() {
  const { kind, route, sample } = run.view;
  if (kind === "sample" && sample && isKnown(route.step)) return (location.hash = sampleLink(route.round, route.prompt, route.sample));
  if (kind === "group" && run.view.from === "sample") return void history.back();
  if (kind === "sample" || kind === "group") return (location.hash = walk.hash);
  if (kind === "overview") return false;
  return (location.hash = "#/");
}

function helpDialog() {
  return h(
    "dialog",
    { id: "help", "aria-labelledby": "help-title" },
    h("h2", { id: "help-title" }, "Keys and letters"),
    h("dl", { class: "keys" }, KEYS.map(([keys, text]) => h("div", null, h("dt", null, keys.split("  ").map((key) => [h("kbd", null, key), " "])), h("dd", null, text)))),
    h("h3", null, "What the letters mean"),
    h("dl", { class: "keys" }, Object.entries(LETTERS).map(([letter, [word, long]]) => h("div", null, h("dt", null, h("span", { class: `cell ${cellClass(letter)}` }, letter)), h("dd", null, `${word}: ${long}`)))),
    h("form", { method: "dialog" }, h("button", { autofocus: true }, "Close")),
  );
}
