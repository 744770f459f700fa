// Small pieces that every view is made of. Data becomes text nodes and attributes, never markup.

const SVG = "http://www.w3.org/2000/svg";

/** An element. `props`: attributes; `class`; `on*`: listeners; `style`: CSS properties by name. Absent values are left out. */
function h(tag, props, ...children) {
  return fill(document.createElement(tag), props, children);
}

/** The same for SVG. */
function svg(tag, props, ...children) {
  return fill(document.createElementNS(SVG, tag), props, children);
}

function fill(element, props, children) {
  for (const [name, value] of Object.entries(props || {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "style") for (const [key, of] of Object.entries(value)) element.style.setProperty(key, of);
    else element.setAttribute(name, value === true ? "" : String(value));
  }
  append(element, children);
  return element;
}

function append(element, children) {
  for (const child of [children].flat(Infinity)) {
    if (child === null || child === undefined || child === false) continue;
    element.append(child instanceof Node ? child : String(child));
  }
}

function replace(element, ...children) {
  element.replaceChildren();
  append(element, children);
  return element;
}

const byId = (id) => document.getElementById(id);

/** Characters that draw nothing or turn the text around, made visible. */
function visible(text) {
  return String(text)
    .replace(/[\u0000-\u0008\u000b\u000c\u000e-\u001f]/g, (c) => String.fromCharCode(0x2400 + c.charCodeAt(0)))
    .replace(/[\u202a-\u202e\u2066-\u2069\u200e\u200f]/g, (c) => `⟦U+${c.charCodeAt(0).toString(16).toUpperCase()}⟧`);
}

const LONGEST = 20000;

/** What a model or a data set wrote: in its own direction, cut where it is huge, with the rest at a click. */
function written(text, props) {
  const block = h("div", { dir: "auto", ...props, class: `written ${(props && props.class) || ""}` });
  const all = visible(text === null || text === undefined ? "" : text);
  if (all === "") return replace(block, h("span", { class: "soft" }, "(empty)"));
  if (all.length <= LONGEST) return replace(block, all);
  const rest = h("button", { class: "small", onclick: () => replace(block, all) }, `Show all ${num(all.length)} characters`);
  return replace(block, all.slice(0, LONGEST), " … ", rest);
}

/** The program's own words, in which backticks set commands apart. */
const prose = (text) => unbroken(visible(text)).split("`").map((part, i) => (i % 2 ? h("code", null, part) : part));

/** A short text on one line. */
function snippet(text, most = 90) {
  const line = visible(text === null || text === undefined ? "" : text).replace(/\s+/g, " ").trim();
  return h("bdi", { class: "snippet" }, line.length > most ? `${line.slice(0, most)}…` : line);
}

const isKnown = (value) => value !== null && value !== undefined && !Number.isNaN(value);

/** A value by its format; what is unknown is a dash that says so. */
function shown(value, format) {
  return isKnown(value) ? format(value) : h("span", { class: "soft", title: "not known", "aria-label": "not known" }, "–");
}

const num = (value) => Number(value).toLocaleString("en-US", { maximumFractionDigits: 0 });
const fixed = (digits) => (value) => Number(value).toFixed(digits).replace(/^-(0\.?0*)$/, "$1").replace("-", "−");
const share = (value) => `${fixed(1)(100 * value)}\u00a0%`;

/** Percents of a text that do not break from their number. */
const unbroken = (text) => String(text).replace(/(\d) %/g, "$1\u00a0%");

/** Small and large numbers alike. */
function brief(value) {
  const size = Math.abs(value);
  if (size === 0) return "0";
  const text = size >= 1000 ? num(value) : size >= 1e-6 ? String(Number(Number(value).toPrecision(size >= 0.001 ? 3 : 2))) : value.toExponential(1);
  return text.replaceAll("-", "−");
}

function seconds(value) {
  if (value > 0 && value < 0.1) return `${brief(1000 * value)} ms`;
  if (value < 10) return `${fixed(1)(value)} s`;
  const whole = Math.round(value);
  if (whole < 90 && whole % 60) return `${whole} s`;
  const [size, large, small, unit] = whole < 5400 ? [60, "min", "s", 1] : [3600, "h", "min", 60];
  const rest = Math.floor((whole % size) / unit);
  return `${Math.floor(whole / size)} ${large}${rest ? ` ${rest} ${small}` : ""}`;
}

const clock = (time) => new Date(1000 * time).toISOString().replace("T", " ").slice(0, 19) + " UTC";

const plural = (count, one, many = `${one}s`) => `${num(count)} ${count === 1 ? one : many}`;

/** A box for what went wrong or is missing: problem, rule, remedy. */
function problemBox(error) {
  const known = error instanceof RunError;
  if (!known) console.error(error);
  return h(
    "section",
    { class: "box problem", role: "alert" },
    h("h2", null, known ? prose(error.problem) : "The page could not draw this."),
    h("p", null, known ? prose(error.rule) : `${error && error.message ? visible(error.message) : error}`),
    h("p", null, h("strong", null, "What to do: "), known ? prose(error.remedy) : "Reload the page; if it stays, report it with this text."),
    h("p", null, h("a", { href: "#/" }, "To the overview")),
  );
}

const MOST_ROWS = 18;

/** A frame that scrolls sideways where its content is wider, and says so. */
function scrolling(props, content) {
  const box = h("div", { role: "region", tabindex: "0", ...props, class: `wide ${props.class || ""}` }, content);
  new ResizeObserver(() => box.toggleAttribute("data-scrolls", box.scrollWidth > box.clientWidth + 1)).observe(box);
  return box;
}

/**
 * A table in a frame of its own, so that a wide or long one scrolls and the page does not. Columns: {head, cell(row), number}.
 * isCards: on a narrow screen each row is a card.
 */
function table(caption, columns, rows, { isCards = false } = {}) {
  const heads = columns.map((c) => h("th", { scope: "col", class: c.number && "number", title: c.title }, c.head));
  const body = rows.map((row) =>
    h("tr", null, columns.map((c, i) => h(i ? "td" : "th", { scope: i ? null : "row", class: c.number && "number", "data-name": isCards && c.head }, c.cell(row)))),
  );
  return scrolling(
    { class: rows.length > MOST_ROWS ? "tall" : "", "aria-label": caption },
    h("table", { class: isCards && "cards" }, h("caption", { class: "unseen" }, caption), h("thead", null, h("tr", null, heads)), h("tbody", null, body)),
  );
}

function say(text) {
  byId("said").textContent = text;
}
