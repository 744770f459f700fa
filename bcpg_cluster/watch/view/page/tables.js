// The overview's other sections: judges, agreement, change by training, push, events, configuration, cost.

function judgesSection(overview) {
  const measured = overview.rounds.flatMap((round) => round.judges.map((of) => ({ round: round.round, ...of }))).filter(saysSomething);
  if (!measured.length) return h("p", { class: "soft" }, "No judge has been measured or asked yet.");
  const names = [...new Set(measured.filter((of) => isKnown(of.precision)).map((of) => of.judge))];
  const chart = (key, title) =>
    trendChart({
      title, description: "One line a judge; numbers in the table.",
      series: names.map((name) => ({ name, points: measured.filter((of) => of.judge === name).map((of) => ({ x: of.round, value: of[key] })) })),
      format: share, ceiling: 1,
    });
  return [
    names.length
      ? h("div", { class: "beside" },
          h("figure", null, h("figcaption", null, "Precision: of the steps it calls right, how many are"), chart("precision", "Precision of judges by round")),
          h("figure", null, h("figcaption", null, "Recall: of the right steps, how many it calls right"), chart("recall", "Recall of judges by round")))
      : h("p", { class: "soft" }, "No judge measures the others in this run, so precision and recall are not known."),
    judgesTable(measured),
    h("p", { class: "soft small" }, "▼ marks a fall against the round before. Steps asked: all steps the judge was given. Steps compared: those of them whose truth is known, without last steps. ",
      "A missing verdict (unparsable, refused, timeout, engine lost) does not count in precision, but lowers recall: a right step without a verdict was not called right."),
  ];
}

const saysSomething = (of) => isKnown(of.precision) || isKnown(of.against) || Object.values(of.num_missing || {}).some((count) => count > 0);

function judgesTable(measured) {
  const order = [...run.overview.run.judges.map((judge) => judge.name), "consensus"];
  const before = (of) => measured.find((other) => other.judge === of.judge && other.against === of.against && other.round === of.round - 1);
  const rate = (key) => (of) => shown(of[key], () => [share(of[key]), changeMark(of[key], (before(of) || {})[key])]);
  const sorted = measured.toSorted((a, b) => order.indexOf(a.judge) - order.indexOf(b.judge) || a.round - b.round);
  return table("Judges by round", [
    { head: "Judge", cell: (of) => of.judge },
    { head: "Round", number: true, cell: (of) => of.round },
    { head: "Against", cell: (of) => shown(of.against, String) },
    { head: "Precision", number: true, cell: rate("precision") },
    { head: "Recall", number: true, cell: rate("recall") },
    { head: "F1", number: true, cell: rate("f1") },
    { head: "Steps compared", number: true, cell: (of) => shown(of.num_steps, num), title: "steps whose truth is known, without last steps" },
    { head: "Steps asked", number: true, cell: (of) => shown(of.num_asked, num), title: "all steps the judge was given" },
    { head: "Verdicts missing", cell: (of) => missingCounts(of.num_missing) },
  ], sorted);
}

function changeMark(now, then) {
  if (!isKnown(then) || !isKnown(now) || Math.abs(now - then) < 0.0005) return "";
  const points = fixed(1)(100 * Math.abs(now - then));
  return now < then
    ? h("span", { class: "fell", title: `fell by ${points} points against the round before` }, ` ▼ ${points}`)
    : h("span", { class: "soft", title: `rose by ${points} points against the round before` }, ` ▲ ${points}`);
}

function missingCounts(counts) {
  const found = Object.entries(counts || {}).filter(([, count]) => count > 0);
  if (!found.length) return "none";
  return found.map(([status, count], i) => [i ? ", " : "", h("span", { title: VERDICT_WORDS[status] }, `${num(count)} ${plain(status)}`)]);
}

function agreementSection(rounds) {
  const pairs = rounds.flatMap((round) => round.agreement.map((of) => ({ round: round.round, ...of })));
  if (!pairs.length) return h("p", { class: "soft" }, "Fewer than two judges have judged the same steps yet.");
  return [
    table("Agreement of judges by round", [
      { head: "Judges", cell: (of) => of.judges.join(" and ") },
      { head: "Round", number: true, cell: (of) => of.round },
      { head: "Agree", number: true, cell: (of) => shown(of.agreement, share) },
      { head: "κ", number: true, cell: (of) => shown(of.kappa, fixed(2)), title: "Cohen's kappa: agreement beyond chance" },
      { head: "Steps", number: true, cell: (of) => shown(of.num_steps, num) },
      { head: "Steps disputed", number: true, title: "steps on which the two differ; the link lists the samples that have some", cell: (of) => shown(of.num_disputed, (n) => h("a", { href: `#/samples?round=${of.round}&filter=disputed&sort=dispute` }, num(n))) },
    ], pairs),
  ];
}

function driftSection(rounds) {
  const known = rounds.filter((round) => round.drift);
  if (!known.length) return h("p", { class: "soft" }, "No round has been trained yet.");
  const groups = ["right", "wrong", "mined", "unmined"];
  const delta = (r, group) => (r.drift.delta_per_token || {})[group];
  return [
    h("div", { class: "beside" },
      h("figure", null, h("figcaption", null, "Change of log-probability per token by training (nats)"),
        trendChart({ title: "Change of log-probability per token", description: "By kind of token.", format: brief,
          series: groups.map((name) => ({ name, points: known.map((r) => ({ x: r.round, value: delta(r, name) })) })) })),
      h("figure", null, h("figcaption", null, "Entropy at the end of each round's training (nats)"),
        trendChart({ title: "Entropy", description: "Last optimiser steps of each round.", format: brief,
          series: [{ name: "entropy", points: known.map((r) => ({ x: r.round, value: r.drift.entropy_last })) }] }))),
    table("Change by training, entropy, loss by round", [
      { head: "Round", cell: (r) => r.round },
      { head: "Drift (trainer against sampler), mean", number: true, cell: (r) => shown(r.drift.reference_vs_sampler_mean, brief), title: "nats per token" },
      { head: "Drift, largest", number: true, cell: (r) => shown(r.drift.reference_vs_sampler_max, brief) },
      ...groups.map((name) => ({ head: `Δ ${name}`, number: true, cell: (r) => shown(delta(r, name), brief) })),
      { head: "Entropy", number: true, cell: (r) => fromTo(r.drift.entropy_first, r.drift.entropy_last) },
      { head: "Loss", number: true, cell: (r) => fromTo(r.drift.loss_first, r.drift.loss_last) },
      { head: "Largest gradient norm", number: true, cell: (r) => shown(r.drift.grad_norm_max, brief) },
    ], known),
  ];
}

const fromTo = (first, last) => (isKnown(first) || isKnown(last) ? [shown(first, brief), " → ", shown(last, brief)] : shown(null));

function pushSection(rounds) {
  const pushed = rounds.filter((round) => round.push);
  if (!pushed.length) return h("p", { class: "soft" }, "No weights were pushed yet.");
  return [
    table("Weight pushes by round", [
      { head: "Round", cell: (r) => r.round },
      { head: "Backend", cell: (r) => shown(r.push.method, plain) },
      { head: "Members", number: true, cell: (r) => shown(r.push.num_members, num) },
      { head: "Canaries", cell: (r) => shown(r.push.canaries, String) },
      { head: "Worst difference (nats)", number: true, cell: (r) => shown(r.push.worst_nats, brief) },
      { head: "Old weights would differ by (nats)", number: true, cell: (r) => shown(r.push.separation_nats, brief) },
      { head: "Took", number: true, cell: (r) => shown(r.push.seconds, seconds) },
    ], pushed),
    h("p", { class: "soft small" }, "Canaries are responses whose log-probabilities trainer and engines must agree on after a push."),
  ];
}

function eventsSection(events) {
  if (!events.length) return h("p", { class: "soft" }, "Nothing noteworthy happened.");
  return table("Events", [
    { head: "Time", cell: (of) => h("time", null, clock(of.time)) },
    { head: "Round", number: true, cell: (of) => shown(of.round, String) },
    { head: "What", cell: (of) => plain(of.kind) },
    { head: "Details", cell: (of) => visible(of.text) },
  ], events);
}

const configShown = { onlyDiffering: true };

function configSection(config) {
  const box = h("div");
  const draw = () => {
    const wanted = configShown.onlyDiffering ? config.filter((of) => of.differs) : config;
    replace(box, h("p", { class: "soft" }, `${plural(wanted.length, "key")} of ${num(config.length)}.`), table("Configuration", [
      { head: "Key", cell: (of) => h("code", null, of.key) },
      { head: "Value", cell: (of) => h("code", { class: of.differs ? "differs" : "" }, visible(shownText(of.value))) },
      { head: "Default", cell: (of) => (isKnown(of.default) ? h("code", null, visible(of.default)) : h("span", { class: "soft" }, "none")) },
    ], wanted));
  };
  const toggle = (event) => {
    configShown.onlyDiffering = event.target.checked;
    draw();
  };
  draw();
  return [
    h("label", { class: "toggle" }, h("input", { type: "checkbox", id: "only-differs", checked: configShown.onlyDiffering, onchange: toggle }), " Only what differs from the defaults"),
    box,
    h("p", { class: "soft small" }, "The section ", h("code", null, "storage"), " is not shown: it may hold keys."),
  ];
}

const shownText = (value) => (isKnown(value) ? String(value) : "null");

function costSection(rounds) {
  const known = rounds.filter((round) => round.cost);
  if (!known.length) return h("p", { class: "soft" }, "Nothing is accounted yet.");
  const calls = known.flatMap((round) => round.cost.judge_calls.map((of) => ({ round: round.round, ...of })));
  const stages = [...new Set(known.flatMap((round) => round.cost.seconds.map((of) => of.stage)))];
  const time = (round, stage) => (round.cost.seconds.find((of) => of.stage === stage) || {}).seconds;
  return [
    table("Time by stage and round", [
      { head: "Stage", cell: (stage) => plain(stage) },
      ...known.map((round) => ({ head: `R${round.round}`, number: true, cell: (stage) => shown(time(round, stage), seconds) })),
    ], stages),
    table("Totals by round", [
      { head: "Round", cell: (r) => r.round },
      { head: "Took", number: true, cell: (r) => shown(r.cost.round_s, seconds) },
      { head: "Tokens generated", number: true, cell: (r) => shown(r.cost.generated_tokens, num) },
      { head: "Money", number: true, cell: (r) => shown(r.cost.money, fixed(2)) },
    ], known),
    h("p", { class: "soft small" }, "A round's time includes start-up and waits; the chart of pools leaves start-up out."),
    calls.length > 0 && table("Calls of judges", [
      { head: "Judge", cell: (of) => of.judge },
      { head: "Round", number: true, cell: (of) => of.round },
      { head: "Calls", number: true, cell: (of) => shown(of.calls, num) },
      { head: "Prompt tokens", number: true, cell: (of) => shown(of.prompt_tokens, num) },
      { head: "Answer tokens", number: true, cell: (of) => shown(of.answer_tokens, num) },
      { head: "Retries", number: true, cell: (of) => shown(of.retries, num) },
    ], calls),
  ];
}
