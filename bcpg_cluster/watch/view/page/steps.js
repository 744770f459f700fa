// The steps of a sample: text, every judge's verdict side by side, what was decided and why, a link and a label each.

/** One verdict as a cell: right, wrong, missing and not asked look and read differently. */
function verdictCell(verdict) {
  if (!verdict) return h("span", { class: "verdict waiting" }, "– no verdict yet");
  if (verdict.status === "not_asked") return h("span", { class: "verdict waiting" }, "– not asked");
  if (verdict.status !== "judged") {
    return h("span", { class: "verdict missing" }, `? missing: ${plain(verdict.status)}`);
  }
  const score = isKnown(verdict.score) ? h("span", { class: "score" }, ` ${fixed(2)(verdict.score)}`) : null;
  const kind = verdict.label === 1 ? "right" : verdict.label === 0 ? "wrong" : "waiting";
  const words = { right: "✓ right", wrong: "✗ wrong", waiting: "– no label" }[kind];
  const type = isKnown(verdict.error_type) && verdict.error_type !== "none" ? h("span", { class: "soft" }, ` ${plain(verdict.error_type)}`) : null;
  return [h("span", { class: `verdict ${kind}` }, words), score, type];
}

function verdictWords(verdict) {
  if (!verdict || verdict.status === "judged") return null;
  return h("p", { class: "soft small" }, VERDICT_WORDS[verdict.status] ? `${verdict.status === "not_asked" ? "Not asked" : "No verdict"}: ${VERDICT_WORDS[verdict.status]}.` : null);
}

/** Seconds an answer took the judge, on average over the shard; null where no verdict says. */
const latencyOf = (sample, judge) =>
  sample.steps.flatMap((step) => step.verdicts).find((verdict) => verdict.judge === judge && isKnown(verdict.latency_s))?.latency_s ?? null;

function judgeHead({ name, role, threshold }, latency) {
  return [name, role === "measure" && h("div", { class: "small" }, "measures the others"), isKnown(threshold) && h("div", { class: "small" }, `right from ${brief(threshold)}`),
    isKnown(latency) && h("div", { class: "small", title: "mean over the answer's shard" }, `≈ ${seconds(latency)} an answer`)];
}

function stepsSection(sample, focused) {
  const box = h("section", { "aria-label": "Steps", class: "steps" }, h("h2", null, "Steps"));
  if (!sample.steps.length) {
    return append(box, [h("p", { class: "soft" }, whyNoSteps(sample)), written(sample.text)]), box;
  }
  const { judges } = run.overview.run;
  const heads = ["Step", "Text", ...judges.map((judge) => judgeHead(judge, latencyOf(sample, judge.name))), "Decided"];
  const body = h("tbody");
  for (const step of sample.steps) append(body, stepRow(sample, step, judges, focused === step.index));
  append(box, [
    scrolling({ "aria-label": "Steps with every judge's verdict" },
      h("table", { class: "cards steps-table" }, h("caption", { class: "unseen" }, "Steps with every judge's verdict"),
        h("thead", null, h("tr", null, heads.map((head) => h("th", { scope: "col" }, head)))), body)),
  ]);
  return box;
}

function whyNoSteps(sample) {
  if (sample.reward > 0) return "Only wrong answers are cut into steps and judged; this one is right.";
  if (isKnown(sample.drop) && sample.drop !== "waiting") return `This answer was dropped (${plain(sample.drop)}), so it was never cut into steps.`;
  if (sample.drop === "waiting") return "This answer is not cut into steps yet.";
  return "The run has no steps of this answer.";
}

function stepRow(sample, step, judges, isFocused) {
  const row = h("tr", { id: `step-${step.index}`, class: `step ${isFocused ? "focused" : ""}`, tabindex: "-1", "aria-label": `Step ${step.index}`, "data-step": step.index });
  const redraw = () => {
    const was = document.activeElement && row.contains(document.activeElement) ? document.activeElement.dataset.label : null;
    replace(row, stepCells(sample, step, judges, redraw));
    if (was) (row.querySelector(`[data-label="${was}"]:not([disabled])`) || row).focus();
  };
  redraw();
  return row;
}

function stepCells(sample, step, judges, redraw) {
  const link = h("a", { href: sampleLink(sample.round, sample.prompt_id, sample.sample, step.index), title: "Permanent link to this step" }, `#${step.index}`);
  return [
    h("th", { scope: "row", "data-name": "Step" }, link, h("br"), h("span", { class: `cell ${cellClass(letterOf(step))}`, title: LETTERS[letterOf(step)][1] }, letterOf(step)),
      h("div", { class: "soft small" }, `tokens ${step.start}–${step.end - 1}`)),
    h("td", { "data-name": "Text", class: "step-text" }, written(step.text)),
    judges.map(({ name }) => judgeCell(name, step.verdicts.find((verdict) => verdict.judge === name))),
    h("td", { "data-name": "Decided", class: "decided" }, decision(step), labelControls(sample, step, redraw)),
  ];
}

/** The step's letter as in the strip of the list. */
const letterOf = (step) => step.letter;

function judgeCell(judge, verdict) {
  const details = verdict && (verdict.raw || verdict.reason);
  return h("td", { "data-name": judge }, verdictCell(verdict), verdictWords(verdict),
    verdict && verdict.reason ? h("div", { class: "reason", dir: "auto" }, visible(verdict.reason.length > 300 ? `${verdict.reason.slice(0, 300)}…` : verdict.reason)) : null,
    details ? h("details", null, h("summary", null, "the judge's reply"), moreOf(verdict)) : null);
}

function moreOf(verdict) {
  return [
    verdict.reason.length > 300 && h("p", { class: "small" }, "Reason: ", visible(verdict.reason)),
    verdict.raw && [h("p", { class: "small soft" }, "The reply as it came:"), written(verdict.raw, { class: "raw" })],
  ];
}

function decision(step) {
  const wrongBy = Object.entries(step.truth).filter(([, label]) => label === 0).map(([judge]) => judge);
  const rightBy = Object.entries(step.truth).filter(([, label]) => label === 1).map(([judge]) => judge);
  return [
    h("p", null, step.mined ? h("strong", { class: "mined-word" }, "Mined. ") : h("strong", null, "Not mined. "), visible(step.rule)),
    isKnown(step.weight_x_advantage) && h("p", { class: "soft small" }, `weight ${shownText2(step.weight)} · weight × advantage ${brief(step.weight_x_advantage)}`),
    step.mined && wrongBy.length > 0 && h("p", { class: "flag" }, `⚑ Mined, but ${wrongBy.join(" and ")} calls it wrong.`),
    !step.mined && !step.is_last && step.consensus === 0 && rightBy.length > 0 && h("p", { class: "flag soft-flag" }, `⚑ Not mined, though ${rightBy.join(" and ")} calls it right.`),
    step.dispute > 0 && h("p", { class: "small" }, h("span", { class: "note disputed" }, "d disputed"), ` by ${fixed(2)(step.dispute)}`),
  ];
}

const shownText2 = (value) => (isKnown(value) ? brief(value) : "varies");
