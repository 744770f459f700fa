// Labels by hand: the server keeps them in a file; a page from disk offers them as a download.

const labels = { lines: new Map(), file: null };

const labelKey = (sample, step) => `${sample.round}/${sample.prompt_id}/${sample.sample}/${step}`;

/** A step's label by hand: what was set here, else what the document has. */
function handLabel(sample, step) {
  const line = labels.lines.get(labelKey(sample, step.index));
  return line === undefined ? step.hand : line.label;
}

async function setLabel(sample, step, label, note) {
  const line = { round: sample.round, prompt_id: sample.prompt_id, sample: sample.sample, step: step.index, label, note };
  const words = label === null ? "cleared" : label ? "right" : "wrong";
  if (run.source.saveLabel) {
    const saved = await run.source.saveLabel(line);
    labels.file = saved.path;
    labels.lines.set(labelKey(sample, step.index), line);
    say(`Step ${step.index}: ${words}. ${plural(saved.num_labels, "label")} in ${saved.path}.`);
  } else {
    labels.lines.set(labelKey(sample, step.index), line);
    say(`Step ${step.index}: ${words}. Kept in this tab; download the labels to keep them.`);
  }
  drawLabelsBar();
}

/** Right, wrong, clear, and a note, for one step. */
function labelControls(sample, step, redraw) {
  const hand = handLabel(sample, step);
  const before = labels.lines.get(labelKey(sample, step.index));
  const note = h("input", { type: "text", class: "note-input", placeholder: "note", "aria-label": `Note on step ${step.index}`, value: before ? before.note : "" });
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

/** JSON lines, one label each; cleared ones are left out. */
const labelsText = () => labelLines().map((line) => `${JSON.stringify(line)}\n`).join("");

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
