// The tokens: each token of the answer shaded by a quantity that can be chosen.

const QUANTITIES = {
  p: ["p", "probability the policy gave the token when it drew it", 0],
  mass: ["gradient mass", "1 − p: how much gradient the token would carry at weight 1", 0],
  drift: ["drift", "trainer's log-probability minus the sampler's, in nats", null],
  p_after: ["p after training", "probability that the weights trained in this round give the token", 0],
  p_change: ["change of p", "p after training minus p when the token was drawn", null],
  weight_x_advantage: ["weight × advantage", "what training multiplies the token's gradient with: below 0 it is pushed down", null],
};

const AFTER = ["p_after", "p_change"];

const heatShown = { quantity: "mass" };

function heatSection(sample) {
  const box = h("section", { class: "heat", "aria-label": "Tokens" }, h("h2", null, "Tokens"));
  if (!sample.tokens) {
    append(box, h("p", { class: "soft" }, "Values by token are not in this document."));
    return append(box, written(sample.text)), box;
  }
  const has = (name) => (sample.tokens[name] || []).some(isKnown);
  const canAsk = (name) => run.source.after && (name === "p_after" || (name === "p_change" && has("p")));
  const known = Object.keys(QUANTITIES).filter((name) => has(name) || canAsk(name));
  const content = h("div");
  const draw = async () => {
    if (!known.includes(heatShown.quantity) && known.length) heatShown.quantity = known[0];
    const { quantity } = heatShown;
    try {
      if (AFTER.includes(quantity) && !sample.tokens.p_after) {
        replace(content, h("p", { class: "soft", role: "status" }, "The trained weights score this answer …"), written(sample.text));
        await scoreAfter(sample);
      }
    } catch (error) {
      if (heatShown.quantity === quantity) replace(content, problemBox(error), written(sample.text));
      return;
    }
    if (heatShown.quantity !== quantity) return;
    replace(content, known.length ? heatOf(sample, quantity) : [h("p", { class: "soft" }, "No value is known for these tokens: the sampler gave no log-probs."), written(sample.text)]);
  };
  const choice = (name) =>
    h("label", { class: "toggle", title: QUANTITIES[name][1] },
      h("input", { type: "radio", name: "quantity", value: name, checked: name === heatShown.quantity, disabled: !known.includes(name), onchange: () => ((heatShown.quantity = name), draw()) }),
      " ", QUANTITIES[name][0], known.includes(name) ? "" : AFTER.includes(name) ? " (with a server)" : " (not known)");
  draw();
  const choices = Object.keys(QUANTITIES).map(choice);
  append(box, [h("fieldset", { class: "inline" }, h("legend", { class: "unseen" }, "Shade tokens by"), choices), content]);
  return box;
}

/** Ask for p after training, once a sample; a run does not store it. */
async function scoreAfter(sample) {
  const { p } = await run.source.after(sample.round, sample.prompt_id, sample.sample);
  const { tokens } = sample;
  tokens.p_after = p;
  tokens.p_change = p.map((after, at) => (isKnown(after) && isKnown(tokens.p[at]) ? after - tokens.p[at] : null));
}

/** How far a value is from 0, of the largest in the sample: 0 to 1. */
function scaleOf(values, quantity) {
  if (QUANTITIES[quantity][2] === 0) return 1;
  return Math.max(1e-12, ...values.filter(isKnown).map(Math.abs));
}

function heatOf(sample, quantity) {
  const values = sample.tokens[quantity];
  const scale = scaleOf(values, quantity);
  const detail = h("p", { class: "token-detail", "aria-live": "polite" }, "Point at a token, or walk along with ← and →.");
  const spans = sample.tokens.text.map((text, at) => tokenSpan(text, at, values[at], scale));
  const show = (at) => {
    spans.forEach((span, i) => span.classList.toggle("at", i === at));
    detail.textContent = tokenWords(sample, at);
  };
  let current = -1;
  const walkTokens = (event) => {
    const by = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!by) return;
    event.preventDefault();
    event.stopPropagation();
    current = Math.min(spans.length - 1, Math.max(0, current + by));
    show(current);
  };
  const pointed = (event) => {
    const at = spans.indexOf(event.target.closest(".token"));
    if (at >= 0) show((current = at));
  };
  const block = h("div", { class: "written tokens", dir: "auto", tabindex: "0", role: "group", "aria-label": `Tokens shaded by ${QUANTITIES[quantity][0]}`, onkeydown: walkTokens, onclick: pointed, onmouseover: pointed },
    byStep(sample, spans));
  return [heatLegend(quantity, values, scale), block, detail];
}

function tokenSpan(text, at, value, scale) {
  const drawn = visible(text).replaceAll("\n", "⏎\n");
  const span = h("span", { class: `token ${!isKnown(value) ? "unknown" : value < 0 ? "below" : "above"}`, "data-token": at }, drawn === "" ? "∅" : drawn);
  if (isKnown(value)) span.style.setProperty("--heat", String(Math.min(1, Math.abs(value) / scale)));
  return span;
}

/** The tokens in their steps, mined ones marked by a line below. */
function byStep(sample, spans) {
  if (!sample.steps.length) return spans;
  const parts = sample.steps.map((step) =>
    h("span", { class: `in-step ${step.mined ? "mined" : ""}`, title: `step ${step.index}${step.mined ? ", mined" : ""}` }, spans.slice(step.start, step.end)));
  return [parts, spans.slice(sample.steps.at(-1).end)];
}

function tokenWords(sample, at) {
  const { tokens } = sample;
  const step = sample.steps.find((of) => at >= of.start && at < of.end);
  const value = (name, label) => (tokens[name] && isKnown(tokens[name][at]) ? `${label} ${brief(tokens[name][at])}` : `${label} not known`);
  return [
    `Token ${at} ${JSON.stringify(visible(tokens.text[at]))}${step ? `, step ${step.index}${step.mined ? " (mined)" : ""}` : ""}`,
    value("p", "p"), value("mass", "gradient mass"), value("drift", "drift"), tokens.p_after && value("p_after", "p after training"), value("weight", "weight"), value("weight_x_advantage", "weight × advantage"),
  ].filter(Boolean).join(" · ");
}

function heatLegend(quantity, values, scale) {
  const known = values.filter(isKnown);
  const least = known.reduce((a, b) => Math.min(a, b), Infinity), most = known.reduce((a, b) => Math.max(a, b), -Infinity);
  if (known.length && least === 0 && most === 0) return h("p", { class: "soft small" }, `${QUANTITIES[quantity][1]}. Here all values are 0.`);
  const step = (part, side) => h("span", { class: `token ${side}`, style: { "--heat": String(part) } }, brief(side === "below" ? -part * scale : part * scale));
  return h("p", { class: "soft small" }, `${QUANTITIES[quantity][1]}. Here from ${brief(least)} to ${brief(most)}. `,
    least < 0 && [step(1, "below"), " ", step(0.5, "below"), " "], step(0, "above"), " ", step(0.5, "above"), " ", step(1, "above"),
    " · underlined: mined");
}
