// The page's vocabulary, the same as the terminal's.

const LETTERS = {
  m: ["mined", "judges call it right, so its tokens carry no (or less) penalty"],
  d: ["disputed", "the judges disagree"],
  x: ["wrong", "the judges call it wrong: not mined"],
  "?": ["verdict missing", "a judge said nothing usable: not mined, and not called wrong"],
  e: ["last step", "the last step, never mined"],
  ".": ["not judged yet", "its verdicts are still to come"],
};

const VERDICT_WORDS = {
  unparsable: "the judge's reply could not be read",
  refused: "it declined, or the step is beyond its context",
  timeout: "it ran out of time",
  engine_lost: "its engine was lost",
  not_asked: "the judges before it had decided the step, or nothing could be mined here",
};

const OUTCOME_WORDS = {
  verified: "checked",
  no_answer: "no answer found",
  truncated: "cut off at the token limit",
  engine_lost: "engine lost, no reward",
  verifier_error: "verifier failed, no reward",
  prompt_too_long: "prompt too long, nothing asked",
  waiting: "not verified yet",
};

const STATE_WORDS = { running: "running", done: "finished", stopped: "stopped" };

const ROUND_WORDS = { base: "before training", done: "finished", "under way": "under way", stopped: "stopped" };

/** How checking went; of an answer that was checked, what came out. */
function outcomeWords({ status, reward }) {
  const words = OUTCOME_WORDS[status] || plain(status);
  return status === "verified" && isKnown(reward) ? `${words}: ${reward > 0 ? "right" : "wrong"}` : words;
}

/** Why a sample is dropped, in words: as the overview says it, else the reason's own name. */
function dropWords(reason) {
  for (const round of run.overview.rounds) {
    for (const dropped of round.dropped) if (dropped.reason === reason && dropped.text) return dropped.text;
  }
  return reason === "waiting" ? "It is not weighed yet." : `Reason: ${plain(reason)}.`;
}

const plain = (name) => String(name).replaceAll("_", " ");

/** Right, wrong or without a reward: a mark and a word, since colour alone says nothing to some. */
function rewardMark(reward) {
  if (!isKnown(reward)) return h("span", { class: "mark none" }, "○ no reward");
  return reward > 0 ? h("span", { class: "mark right" }, "✓ right") : h("span", { class: "mark wrong" }, "✗ wrong");
}

/** The steps of a sample, one cell each, by the letters above. */
function strip(letters) {
  if (!letters) return h("span", { class: "soft" }, "–");
  const cells = [...letters].map((letter) => h("span", { class: `cell ${cellClass(letter)}`, "aria-hidden": "true" }, letter));
  const words = stripWords(letters);
  return h("span", { class: "strip", role: "img", "aria-label": words, title: words }, cells);
}

const cellClass = (letter) => ({ m: "mined", d: "disputed", x: "wrong", "?": "missing", e: "last" })[letter] || "waiting";

function stripWords(letters) {
  const parts = Object.entries(LETTERS)
    .map(([letter, [word]]) => [[...letters].filter((found) => found === letter).length, word])
    .filter(([count]) => count > 0);
  return `${plural(letters.length, "step")}: ${parts.map(([count, word]) => `${count} ${word}`).join(", ")}`;
}

function stripLegend() {
  return h(
    "ul",
    { class: "legend", "aria-label": "What the step letters mean" },
    Object.entries(LETTERS).map(([letter, [word, long]]) =>
      h("li", { title: long }, h("span", { class: `cell ${cellClass(letter)}` }, letter), " ", word),
    ),
  );
}

const sampleLink = (round, prompt, sample, step) =>
  `#/sample/${round}/${encodeURIComponent(prompt)}/${sample}${isKnown(step) ? `/step/${step}` : ""}`;
const groupLink = (round, prompt) => `#/group/${round}/${encodeURIComponent(prompt)}`;
