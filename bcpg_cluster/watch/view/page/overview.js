// The run at a glance: where to start, trends by round, what was dropped, who judged how well, when the pools worked.

const SECTIONS = [
  ["start", "Start here", (o) => startHere(o.start_here)],
  ["accuracy", "Accuracy by round", (o) => accuracySection(o.rounds)],
  ["samples", "Samples: asked = kept + dropped", (o) => samplesSection(o.rounds)],
  ["mined", "Mined share", (o) => minedSection(o.rounds)],
  ["judges", "Judges by round", (o) => judgesSection(o)],
  ["agreement", "Agreement of judges", (o) => agreementSection(o.rounds)],
  ["drift", "Change by training and entropy", (o) => driftSection(o.rounds)],
  ["push", "Weight pushes, proven", (o) => pushSection(o.rounds)],
  ["pools", "Pools and the round's bound", (o) => ganttSection(o.gantt)],
  ["events", "Events", (o) => eventsSection(o.events)],
  ["config", "Configuration", (o) => configSection(o.config)],
  ["cost", "Cost", (o) => costSection(o.rounds)],
];

function overviewView(route) {
  const overview = run.overview;
  const links = SECTIONS.map(([id, title]) => h("li", null, h("a", { href: `#/?at=${id}` }, title.split(":")[0])));
  const page = h(
    "div",
    { class: "overview" },
    h("h1", { tabindex: "-1" }, "Overview"),
    h("p", { class: "lead" }, overview.run.method),
    judgesLine(overview.run.judges),
    h("nav", { "aria-label": "On this page" }, h("ul", { class: "inline" }, links)),
    roundStates(overview.rounds),
    SECTIONS.map(([id, title, draw]) => section(id, title, draw, overview)),
  );
  const at = route.query.get("at");
  return { page, title: "Overview", focus: () => (at ? byId(`at-${at}`) : null) };
}

/** A part of the overview; one that cannot be drawn says so and leaves the others alone. */
function section(id, title, draw, overview) {
  let content;
  try {
    content = draw(overview);
  } catch (error) {
    content = problemBox(error);
  }
  return h("section", { id: `at-${id}`, class: "part-of-page", tabindex: "-1", "aria-label": title }, h("h2", null, title), content);
}

function startHere(entries) {
  if (!entries.length) return h("p", { class: "soft" }, "The run has nothing to show yet. The page fills as its shards arrive.");
  return h(
    "ol",
    { class: "start" },
    entries.map((entry) =>
      h("li", null, h("a", { href: safeLink(entry.link) }, entry.title), h("p", null, unbroken(visible(entry.text)))),
    ),
  );
}

/** Links in documents lead within the page, whatever they say. */
const safeLink = (link) => (String(link).startsWith("#/") ? link : "#/");

function judgesLine(judges) {
  if (!judges.length) return null;
  const words = (judge) => [
    h("strong", null, judge.name), ` ${judge.role === "vote" ? "votes" : judge.role === "measure" ? "measures the others" : plain(judge.role)}`,
    ` (${[judge.kind, judge.model, isKnown(judge.threshold) ? `right from ${brief(judge.threshold)}` : null].filter(Boolean).join(", ")})`,
  ];
  return h("p", { class: "soft" }, "Judges: ", judges.map((judge, i) => [i ? "; " : "", words(judge)]), ".");
}

/** Rounds that are not finished, stage by stage. */
function roundStates(rounds) {
  const open = rounds.filter((round) => round.state === "under way" || round.state === "stopped");
  return open.map((round) =>
    h(
      "section",
      { class: "box", "aria-label": `Round ${round.round} so far` },
      h("h2", null, `Round ${round.round} is ${ROUND_WORDS[round.state]}`),
      h("ul", { class: "inline" }, round.stages.map((stage) =>
        h("li", null, `${plain(stage.name)} ${num(stage.done)} of ${num(stage.total)}${stage.done < stage.total ? "" : " ✓"}`))),
    ),
  );
}

const point = (round, interval) => ({ x: round.round, ...(interval || { value: null }) });

function accuracySection(rounds) {
  const tests = [...new Set(rounds.flatMap((r) => r.accuracy.tests.map((test) => test.name)))];
  const test = (round, name) => round.accuracy.tests.find((of) => of.name === name) || {};
  const passes = [...new Set(rounds.flatMap((r) => Object.keys(r.accuracy.pass_at_k)))].filter((k) => k !== "1");
  const series = [
    { name: "sampled", of: (r) => r.accuracy.sampled },
    { name: "greedy", of: (r) => r.accuracy.greedy },
    ...passes.map((k) => ({ name: `pass@${k}`, of: (r) => r.accuracy.pass_at_k[k] })),
    ...tests.flatMap((name) => [
      { name: `${name}, sampled`, of: (r) => test(r, name).sampled },
      { name: `${name}, greedy`, of: (r) => test(r, name).greedy },
    ]),
  ].filter(({ of }) => rounds.some((round) => of(round)));
  const cell = (interval) => shown(interval && interval.value, () => [share(interval.value), h("span", { class: "range" }, rangeOf(interval))]);
  return beside(
    trendChart({
      title: "Accuracy by round",
      description: "With 95 % intervals. Round 0 is the policy before training.",
      series: series.map(({ name, of }) => ({ name, points: rounds.map((r) => point(r, of(r))) })),
      format: (value) => `${fixed(0)(100 * value)}\u00a0%`, floor: 0, ceiling: 1,
    }),
    table("Accuracy by round with 95 % intervals",
      [{ head: "Round", cell: (r) => r.round }, ...series.map(({ name, of }) => ({ head: name, number: true, cell: (r) => cell(of(r)) }))], rounds),
    h("p", { class: "soft small" }, "Bands and ranges are 95 % intervals over problems."),
  );
}

function rangeOf(interval) {
  return isKnown(interval.low) && isKnown(interval.high) ? `${fixed(1)(100 * interval.low)}–${fixed(1)(100 * interval.high)}` : "";
}

function beside(chart, ...rest) {
  return h("div", { class: "beside" }, h("div", null, chart), h("div", null, rest));
}

const NEWEST = 6;

function samplesSection(rounds) {
  const asked = rounds.filter((round) => isKnown(round.asked));
  if (!asked.length) return h("p", { class: "soft" }, "No round has been weighed yet.");
  const newest = asked.slice(-NEWEST), earlier = asked.slice(0, -NEWEST);
  return [
    newest.map(samplesOfRound),
    earlier.length > 0 && h("details", null, h("summary", null, plural(earlier.length, "earlier round")), earlier.map(samplesOfRound)),
  ];
}

function samplesOfRound(round) {
  const dropped = round.dropped.reduce((sum, of) => sum + of.num, 0);
  const link = (reason) => `#/samples?round=${round.round}&drop=${encodeURIComponent(reason)}`;
  return h(
    "div",
    { class: "asked" },
    h("h3", null, `Round ${round.round}: ${num(round.asked)} asked = `, shown(round.kept, num), ` kept + ${num(dropped)} dropped`),
    partsBar(`Round ${round.round}`, [
      { name: "kept", num: round.kept || 0, kind: "kept" },
      ...round.dropped.map((of, i) => ({ name: plain(of.reason), num: of.num, kind: `dropped d${i % 3}` })),
    ]),
    round.dropped.length > 0 &&
      h("ul", { class: "reasons" }, round.dropped.map((of) =>
        h("li", null, h("a", { href: link(of.reason) }, `${num(of.num)} ${plain(of.reason)}`), `: ${of.text}`))),
  );
}

const UNSURE = "of the tokens in steps that the consensus calls right, the share that the policy gave a probability below 0.9 when it drew them";

function minedSection(rounds) {
  const known = rounds.filter((round) => isKnown(round.mined_token_share) || isKnown(round.mined_gradient_share));
  if (!known.length) return h("p", { class: "soft" }, "Nothing was mined yet.");
  const series = [
    { name: "share of tokens", of: (r) => r.mined_token_share },
    { name: "share of gradient mass", of: (r) => r.mined_gradient_share },
  ];
  return beside(
    trendChart({
      title: "Mined share of wrong answers by round", description: "Of their tokens, and of their gradient mass (the sum of 1 − p).",
      series: series.map(({ name, of }) => ({ name, points: known.map((r) => ({ x: r.round, value: of(r) })) })),
      format: (value) => `${fixed(0)(100 * value)}\u00a0%`, floor: 0, ceiling: 1,
    }),
    table("Mined share by round", [
      { head: "Round", cell: (r) => r.round },
      { head: "of tokens", number: true, cell: (r) => shown(r.mined_token_share, share) },
      { head: "of gradient mass", number: true, cell: (r) => shown(r.mined_gradient_share, share) },
      { head: "right steps: tokens with p < 0.9", number: true, cell: (r) => shown(r.uncertain_right_share, share), title: UNSURE },
    ], known),
    h("p", { class: "soft small" }, `Of wrong answers. A token's gradient mass is 1 − p, the gradient it would carry at weight 1: next to none where the policy was sure. Last column: ${UNSURE}. `,
      h("a", { href: "#/samples?filter=mined,sure&sort=mined" }, "Samples mined with p > 0.95")),
  );
}
