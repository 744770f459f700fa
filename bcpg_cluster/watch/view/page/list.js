// The list of samples: filters, order, search; one page of rows at a time, so that 100,000 samples stay quick.

const PAGE_ROWS = 50;

/** What j and k walk along in the view of a sample, and where the list was left. */
const walk = { keys: [], hash: "#/samples", opened: null };

function wantedFrom(query) {
  const round = parseInt(query.get("round"), 10);
  return {
    round: Number.isInteger(round) ? round : null,
    filter: (query.get("filter") || "").split(",").filter((name) => Object.hasOwn(FILTERS, name)),
    sort: Object.hasOwn(SORTS, query.get("sort")) ? query.get("sort") : "order",
    drop: query.get("drop") || "",
    prompt: query.get("prompt") || "",
    text: query.get("text") || "",
    page: Math.max(1, parseInt(query.get("page"), 10) || 1),
  };
}

function listHash(wanted) {
  const query = new URLSearchParams();
  if (isKnown(wanted.round)) query.set("round", wanted.round);
  for (const name of ["drop", "prompt", "text"]) if (wanted[name]) query.set(name, wanted[name]);
  if (wanted.filter.length) query.set("filter", wanted.filter.join(","));
  if (wanted.sort !== "order") query.set("sort", wanted.sort);
  if (wanted.page > 1) query.set("page", wanted.page);
  const text = query.toString().replaceAll("%2C", ",");
  return text ? `#/samples?${text}` : "#/samples";
}

function listView(route) {
  const list = { wanted: wantedFrom(route.query), progress: h("p", { class: "soft", role: "status" }), results: h("div") };
  list.chips = h("div", { class: "chips", role: "group", "aria-label": "Show only" });
  list.change = (patch) => {
    list.wanted = { ...list.wanted, page: 1, ...patch };
    history.replaceState(null, "", listHash(list.wanted));
    if ("round" in patch) loadList(list);
    else drawList(list);
  };
  const page = h(
    "div",
    { class: "samples" },
    h("h1", { tabindex: "-1" }, "Samples"),
    filterForm(list),
    stripLegend(),
    list.progress,
    list.results,
  );
  loadList(list);
  return { page, title: "Samples", focus: () => openedRow(), leave: () => (list.left = true), list };
}

function filterForm(list) {
  const rounds = [...new Set(run.overview.shards.map((shard) => shard.round))];
  const option = (value, text, chosen) => h("option", { value, selected: value === chosen }, text);
  const pick = (label, id, options, chosen, change) =>
    h("label", { for: id }, h("span", null, label), h("select", { id, onchange: (event) => change(event.target.value) }, options.map(([value, text]) => option(value, text, chosen))));
  const reasons = [...new Set(run.overview.rounds.flatMap((round) => round.dropped.map((of) => of.reason)))];
  const type = (label, id, value, name, hint) =>
    h("label", { for: id }, h("span", null, label), h("input", { id, type: "search", value, placeholder: hint, autocomplete: "off", oninput: later((event) => list.change({ [name]: event.target.value.trim() })) }));
  const { wanted } = list;
  return h(
    "form",
    { class: "filters", role: "search", onsubmit: (event) => event.preventDefault() },
    pick("Round", "pick-round", [["", "all"], ...rounds.map((round) => [String(round), String(round)])], isKnown(wanted.round) ? String(wanted.round) : "",
      (value) => list.change({ round: value === "" ? null : Number(value) })),
    pick("Sort by", "pick-sort", Object.entries(SORTS).map(([name, [text]]) => [name, text]), wanted.sort, (sort) => list.change({ sort })),
    pick("Dropped because", "pick-drop", [["", "any reason"], ...reasons.map((reason) => [reason, plain(reason)])], wanted.drop, (drop) => list.change({ drop })),
    type("Prompt id", "pick-prompt", wanted.prompt, "prompt", "part of it"),
    type("Question or answer", "pick-text", wanted.text, "text", "text  ( / )"),
    list.chips,
  );
}

/** Wait until typing pauses. */
function later(act, pause = 150) {
  let timer;
  return (event) => {
    clearTimeout(timer);
    timer = setTimeout(() => act(event), pause);
  };
}

function drawChips(list) {
  const pressed = document.activeElement && document.activeElement.dataset ? document.activeElement.dataset.filter : null;
  const chips = Object.entries(FILTERS).map(([name, [text]]) =>
    h("button", { type: "button", class: "chip", "data-filter": name, "aria-pressed": String(list.wanted.filter.includes(name)), onclick: () => list.change({ filter: toggled(list.wanted.filter, name) }) }, text),
  );
  replace(list.chips, chips, isFiltered(list.wanted) && h("a", { class: "clear", href: listHash({ ...wantedFrom(new URLSearchParams()), sort: list.wanted.sort }) }, "Clear all filters"));
  if (pressed) chips.find((chip) => chip.dataset.filter === pressed).focus();
}

const isFiltered = (wanted) => isKnown(wanted.round) || wanted.filter.length > 0 || [wanted.drop, wanted.prompt, wanted.text].some((text) => text !== "");

const OPPOSITE = { right: "wrong", wrong: "right" };

function toggled(filter, name) {
  return filter.includes(name) ? filter.filter((other) => other !== name) : [...filter.filter((other) => other !== OPPOSITE[name]), name];
}

/** Load what the list needs; draw what is there at once and then every so often. */
async function loadList(list) {
  const round = list.wanted.round;
  const isStale = () => list.left || list.wanted.round !== round;
  const wanted = shardsOf(round);
  let drawn = 0;
  drawList(list, true);
  await loadShards(wanted, (done, total) => {
    list.progress.textContent = done < total ? `Loaded ${num(done)} of ${num(total)} shards …` : "";
    if (performance.now() - drawn < 400 && done < total) return;
    if (!isStale()) drawList(list, done < total);
    drawn = performance.now();
  }, isStale);
  if (!isStale()) drawList(list);
}

function drawList(list, isLoading = false) {
  const wanted = shardsOf(list.wanted.round);
  const all = loadedRows(wanted);
  const found = select(all, list.wanted);
  walk.keys = found.map((row) => row.key);
  walk.hash = listHash(list.wanted);
  drawChips(list);
  const last = Math.max(1, Math.ceil(found.length / PAGE_ROWS));
  const at = Math.min(list.wanted.page, last);
  const shown = found.slice((at - 1) * PAGE_ROWS, at * PAGE_ROWS);
  const failures = wanted.map((shard) => rows.failed.get(shardKey(shard))).filter(Boolean);
  const focused = document.activeElement && document.activeElement.dataset ? document.activeElement.dataset.row : null;
  replace(
    list.results,
    h("p", { class: "count", role: "status" }, h("strong", null, num(found.length)), ` of ${plural(all.length, "sample")}${isLoading ? " so far" : ""}`),
    waitingWords(wanted),
    failures.map(problemBox),
    shown.length ? rowsTable(shown) : h("p", { class: "box" }, noneWords(all.length, wanted.length)),
    last > 1 && pager(list, at, last),
  );
  const again = focused && [...list.results.querySelectorAll("[data-row]")].find((link) => link.dataset.row === focused);
  if (again) again.focus();
  else if (!isLoading && !list.wasDrawn) returnTo(openedRow());
  list.wasDrawn ||= !isLoading;
}

function waitingWords(shards) {
  const waiting = shards.filter((shard) => shard.waiting_for.length);
  if (!waiting.length) return null;
  const tables = [...new Set(waiting.flatMap((shard) => shard.waiting_for))].map(plain).join(", ");
  return h("p", { class: "soft" }, `${plural(waiting.length, "shard")} still ${waiting.length === 1 ? "waits" : "wait"} for: ${tables}.`);
}

function noneWords(numLoaded, numShards) {
  if (!numShards) return "This round has no samples yet.";
  return numLoaded ? "No sample passes all filters. Take one away." : "Nothing is loaded yet.";
}

function pager(list, at, last) {
  const turn = (page, text, key) =>
    h("button", { type: "button", "data-turn": key, disabled: page < 1 || page > last, onclick: () => turnTo(list, page) }, text);
  return h("nav", { class: "pager", "aria-label": "Pages of the list" }, turn(at - 1, "← Previous", "back"), ` Page ${num(at)} of ${num(last)} `, turn(at + 1, "Next →", "on"));
}

function turnTo(list, page) {
  list.change({ page });
  list.results.querySelector("[data-row]")?.focus();
}

function rowsTable(shown) {
  const body = shown.map((row) =>
    h(
      "tr",
      { onclick: (event) => event.target.closest("a") || (location.hash = sampleLink(row.round, row.prompt_id, row.sample)) },
      h("th", { scope: "row", "data-name": "Sample" },
        h("a", { href: sampleLink(row.round, row.prompt_id, row.sample), "data-row": row.key, onfocus: () => (walk.opened = row.key) }, `R${row.round} · `, h("bdi", null, visible(row.prompt_id)), ` · ${row.sample}`)),
      h("td", { "data-name": "Question", class: "question" }, snippet(row.question, 60)),
      h("td", { "data-name": "Answer" }, rewardMark(row.reward), " ", answerWords(row)),
      h("td", { "data-name": "Steps", class: "steps-cell" }, strip(row.strip)),
      h("td", { "data-name": "Tokens", class: "number" }, num(row.num_tokens)),
      h("td", { "data-name": "Mined", class: "number" }, minedWords(row)),
      h("td", { "data-name": "Dispute", class: "number" }, row.dispute ? fixed(2)(row.dispute) : "0"),
      h("td", { "data-name": "Gradient mass", class: "number" }, shown2(row.mass)),
      h("td", { "data-name": "Notes" }, notesOf(row)),
    ),
  );
  const heads = ["Sample", "Question", "Answer", "Steps", "Tokens", "Mined", "Dispute", "Gradient mass", "Notes"];
  return scrolling({ "aria-label": "Samples", tabindex: "-1" },
    h("table", { class: "cards" }, h("caption", { class: "unseen" }, "Samples"),
      h("thead", null, h("tr", null, heads.map((head, i) => h("th", { scope: "col", class: i >= 4 && i <= 7 && "number" }, head)))), h("tbody", null, body)));
}

const shown2 = (value) => shown(value, fixed(1));

function answerWords(row) {
  const gold = isKnown(row.reward) && row.reward === 0 ? [h("span", { class: "soft" }, ", right is "), snippet(row.gold, 24)] : null;
  return [isKnown(row.found) ? snippet(row.found, 24) : h("span", { class: "soft" }, OUTCOME_WORDS[row.status] || plain(row.status)), gold];
}

function minedWords(row) {
  return row.num_mined ? `${num(row.num_mined)} (${fixed(0)((100 * row.num_mined) / row.num_tokens)}\u00a0%)` : "0";
}

function notesOf(row) {
  const notes = [
    isKnown(row.drop) && (row.drop === "waiting" ? h("span", { class: "note" }, "not weighed yet") : h("span", { class: "note", title: dropWords(row.drop) }, `dropped: ${plain(row.drop)}`)),
    row.num_missing > 0 && h("span", { class: "note missing" }, `? ${plural(row.num_missing, "verdict")} missing`),
    row.num_spared_wrong > 0 && h("span", { class: "note flag" }, `⚑ ${num(row.num_spared_wrong)} mined, truth says wrong`),
    row.stop_reason === "length" && h("span", { class: "note" }, "truncated"),
    !isKnown(row.mass) && h("span", { class: "note" }, "no log-probs"),
  ];
  return notes.filter(Boolean).map((note) => [note, " "]);
}

/** Where the list was left, unless the reader is elsewhere already. */
function returnTo(link) {
  if (link && ["H1", "BODY"].includes(document.activeElement.tagName)) link.focus();
}

/** The link of the sample that was opened last, if it is on this page of the list. */
function openedRow() {
  return walk.opened ? [...document.querySelectorAll("[data-row]")].find((link) => link.dataset.row === walk.opened) : null;
}
