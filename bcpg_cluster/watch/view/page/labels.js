// Labels by hand: the server keeps them in a file; a page from disk offers them as a download.

const labels = { lines: new Map(), samples: new Map(), file: null };

const sampleKey = (sample) => `${sample.round}/${sample.prompt_id}/${sample.sample}`;
const labelKey = (sample, step) => `${sampleKey(sample)}/${step}`;

/** A step's label by hand: what was set here, else what the document has. */
function handLabel(sample, step) {
  const line = labels.lines.get(labelKey(sample, step.index));
  return line === undefined ? step.hand : line.label;
}

/** Its note, from where the label is from. */
function handNote(sample, step) {
  const line = labels.lines.get(labelKey(sample, step.index));
  return line === undefined ? step.note : line.note;
}

/** A step keeps its note until it gets another or its label is cleared. */
async function setLabel(sample, step, label, written) {
  const note = label === null ? "" : written || handNote(sample, step);
  const line = { round: sample.round, prompt_id: sample.prompt_id, sample: sample.sample, step: step.index, label, note };
  const words = label === null ? "cleared" : label ? "right" : "wrong";
  if (run.source.saveLabel) {
    const saved = await run.source.saveLabel(line);
    labels.file = saved.path;
    labels.lines.set(labelKey(sample, step.index), line);
    say(`Step ${step.index}: ${words}. ${plural(saved.num_labels, "label")} in ${saved.path}.`);
  } else {
    labels.lines.set(labelKey(sample, step.index), line);
    labels.samples.set(sampleKey(sample), sample);
    say(`Step ${step.index}: ${words}. Kept in this tab; download the labels to keep them.`);
  }
  drawLabelsBar();
}

/** Right, wrong, clear, and a note, for one step. */
function labelControls(sample, step, redraw) {
  const hand = handLabel(sample, step);
  const note = h("input", { type: "text", class: "note-input", placeholder: "note", "aria-label": `Note on step ${step.index}`, value: handNote(sample, step) });
  const error = h("div");
  const set = async (label) => {
    try {
      await setLabel(sample, step, label, note.value.trim());
      redraw();
    } catch (problem) {
      replace(error, problemBox(problem));
    }
  };
  const button = (label, text, name) =>
    h("button", { type: "button", class: "small", "data-label": name, "aria-pressed": String(hand === label && label !== null), disabled: label === null && !isKnown(hand), onclick: () => set(label) }, text);
  return h(
    "div",
    { class: "label-controls", role: "group", "aria-label": `Label step ${step.index} by hand` },
    button(1, "✓ Right", "right"), button(0, "✗ Wrong", "wrong"), button(null, "Clear", "clear"), note,
    isKnown(hand) && h("span", { class: `by-hand ${hand ? "right" : "wrong"}` }, `by hand: ${hand ? "right" : "wrong"}`),
    error,
  );
}

const labelLines = () => [...labels.lines.values()].filter((line) => line.label !== null);

/** A sample's line of a file of hand labels, as the server writes it; null without a label. */
function fileLine(sample) {
  const { steps } = sample;
  const given = steps.map((step) => handLabel(sample, step));
  if (!given.some(isKnown)) return null;
  const name = run.overview.run.name;
  const noted = steps.filter((step) => isKnown(handLabel(sample, step)) && handNote(sample, step));
  const byJudge = (value) => Object.fromEntries(steps[0].verdicts.map(({ judge }, place) => [judge, steps.map((step) => value(step.verdicts[place]))]));
  return {
    id: `${name}/${sampleKey(sample)}`, problem: sample.question, steps: steps.map((step) => step.text), labels: given.map((label) => label ?? null),
    answer: sample.gold, run: name, round: sample.round, prompt_id: sample.prompt_id, sample: sample.sample,
    tokens: steps.map((step) => step.end - step.start), scores: byJudge((verdict) => verdict.score), judges: byJudge((verdict) => verdict.label),
    notes: Object.fromEntries(noted.map((step) => [step.index, handNote(sample, step)])),
  };
}

/** JSON lines in ASCII (U+2028 ends a line for many), one a sample; samples without a label are left out. */
const labelsText = () => [...labels.samples.values()].map(fileLine).filter(Boolean)
  .map((line) => `${JSON.stringify(line).replace(/[\u007f-\uffff]/g, (unit) => `\\u${unit.charCodeAt(0).toString(16).padStart(4, "0")}`)}\n`).join("");

function drawLabelsBar() {
  const count = labelLines().length;
  const bar = byId("bottom");
  if (run.source.saveLabel) {
    const file = labels.file || (run.overview.files && run.overview.files.labels);
    return replace(bar, file ? h("p", { class: "soft" }, "Labels by hand: ", h("code", null, visible(file)), prose(". `calibrate` and `judge-eval` read it.")) : null);
  }
  if (!labels.lines.size) return replace(bar);
  const download = () => {
    const url = URL.createObjectURL(new Blob([labelsText()], { type: "application/jsonl" }));
    h("a", { href: url, download: "labels.jsonl" }).click();
    setTimeout(() => URL.revokeObjectURL(url), 10000);
  };
  return replace(bar, h("div", { class: "box" }, `${plural(count, "label")} by hand in this tab. They are lost when you close it. `,
    h("button", { id: "download-labels", type: "button", onclick: download, disabled: !count }, "Download labels.jsonl")));
}
