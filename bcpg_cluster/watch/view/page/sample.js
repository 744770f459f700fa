// One sample: what was asked, answered and decided, its steps, its tokens, and what a run does not store.

async function sampleView(route) {
  const sample = await run.source.sample(route.round, route.prompt, route.sample);
  if (isKnown(route.step) && !sample.steps.some((step) => step.index === route.step)) throw noStep(sample, route.step);
  walk.opened = `${sample.round}/${sample.prompt_id}/${sample.sample}`;
  const page = h(
    "div",
    { class: "sample" },
    trail([["Samples", walk.hash], [`Round ${sample.round}`, `#/samples?round=${sample.round}`], [`Prompt ${visible(sample.prompt_id)}`, groupLink(sample.round, sample.prompt_id)]]),
    h("h1", { tabindex: "-1" }, `Sample ${sample.sample} of `, h("bdi", null, visible(sample.prompt_id)), ` `, rewardMark(sample.reward)),
    neighbours(sample),
    factsOf(sample),
    stripOf(sample),
    stepsSection(sample, route.step),
    heatSection(sample),
    sample.not_stored.length > 0 && h("section", { class: "box", "aria-label": "Not stored" }, h("h2", null, "What a run does not store"), h("ul", null, sample.not_stored.map((text) => h("li", null, visible(text))))),
  );
  const step = () => (isKnown(route.step) ? byId(`step-${route.step}`) : null);
  return { page, title: `Sample ${sample.sample} of ${sample.prompt_id}, round ${sample.round}`, focus: step, sample };
}

function noStep(sample, index) {
  return new RunError(
    `Sample ${sample.sample} of ${sample.prompt_id} has no step ${index}.`,
    sample.steps.length ? `It has steps 0 to ${sample.steps.length - 1}.` : "It is not cut into steps: only wrong answers are.",
    `Open the sample without a step: ${sampleLink(sample.round, sample.prompt_id, sample.sample)}`,
  );
}

function factsOf(sample) {
  const fact = (name, value, props) => h("div", props, h("dt", null, name), h("dd", null, value));
  const unknown = (value, format = brief) => shown(value, format);
  return h(
    "dl",
    { class: "facts" },
    fact("Question", written(sample.question), { class: "whole" }),
    fact("Answer found", isKnown(sample.found) ? written(sample.found) : h("span", { class: "soft" }, OUTCOME_WORDS[sample.status] || plain(sample.status))),
    fact("Right answer", written(sample.gold)),
    fact("Outcome", [outcomeWords(sample), sample.why ? `: ${visible(sample.why)}` : ""]),
    fact("Ended by", { stop: "its end token", length: "the token limit", aborted: "the engine giving up", prompt_too_long: "a prompt that is too long" }[sample.stop_reason] || plain(sample.stop_reason)),
    fact("Trained on", isKnown(sample.drop) ? [sample.drop === "waiting" ? "" : ["no: ", h("span", { class: "note" }, `dropped, ${plain(sample.drop)}`), ". "], dropWords(sample.drop)] : "yes"),
    fact("Advantage", [unknown(sample.advantage), h("span", { class: "soft" }, " (group mean ", unknown(sample.group_mean), " of ", unknown(sample.group_size, num), ")")]),
    fact("Tokens", num(sample.num_tokens)),
    fact("Policy version", sample.policy_version < 0 ? "made elsewhere" : String(sample.policy_version)),
    fact("Seed", unknown(sample.seed, String)),
  );
}

function stripOf(sample) {
  if (!sample.steps.length) return null;
  const cells = sample.steps.map((step) => {
    const letter = letterOf(step);
    const href = sampleLink(sample.round, sample.prompt_id, sample.sample, step.index);
    return h("a", { href, class: `cell ${cellClass(letter)}`, "aria-label": `Step ${step.index}: ${LETTERS[letter][0]}`, title: `Step ${step.index}: ${LETTERS[letter][0]}` }, letter);
  });
  return h("div", { class: "big-strip" }, h("nav", { class: "strip", "aria-label": "Steps" }, cells), stripLegend());
}

/** The samples before and after this one: of the list it was opened from, else of its group. */
function neighbourLinks(sample) {
  const at = walk.keys.indexOf(`${sample.round}/${sample.prompt_id}/${sample.sample}`);
  if (at >= 0) return { kind: `${num(at + 1)} of ${num(walk.keys.length)} in the list`, before: linkOfKey(walk.keys[at - 1]), after: linkOfKey(walk.keys[at + 1]) };
  const member = (k) => (k >= 0 && k < (sample.group_size || 0) ? sampleLink(sample.round, sample.prompt_id, k) : null);
  return { kind: "in its group", before: member(sample.sample - 1), after: member(sample.sample + 1) };
}

function linkOfKey(key) {
  if (!key) return null;
  const [round, ...rest] = key.split("/");
  return sampleLink(round, rest.slice(0, -1).join("/"), rest.at(-1));
}

function neighbours(sample) {
  const { kind, before, after } = neighbourLinks(sample);
  return h("nav", { class: "pager", "aria-label": "Other samples" },
    before ? h("a", { href: before, rel: "prev" }, "← Previous") : h("span", { class: "soft" }, "← Previous"), h("span", { class: "soft" }, ` ${kind} `),
    after ? h("a", { href: after, rel: "next" }, "Next →") : h("span", { class: "soft" }, "Next →"),
    " · ", h("a", { href: groupLink(sample.round, sample.prompt_id) }, "its group side by side"));
}
