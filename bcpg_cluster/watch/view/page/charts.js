// Charts as SVG, drawn at the width they have, so that their text stays readable on a phone.

const HUES = 6;
const MARKS = ["circle", "square", "diamond", "triangle", "circle", "square"];
const DASHES = ["", "6 3", "2 3", "8 3 2 3", "", "6 3"];

/** A box that draws its content again whenever its width changes. */
function drawnToWidth(draw) {
  const box = h("div", { class: "chart" });
  let last = 0;
  const observer = new ResizeObserver(() => {
    const width = Math.floor(box.clientWidth);
    if (!width || width === last) return;
    last = width;
    replace(box, draw(width));
  });
  observer.observe(box);
  return box;
}

/** Round numbers that cover a span. */
function ticks(low, high, most = 5) {
  const span = high - low || 1;
  const raw = span / most;
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 2.5, 5, 10].map((times) => times * power).find((size) => size >= raw - 1e-12);
  const found = [];
  for (let at = Math.ceil(low / step - 1e-9) * step; at <= high + step * 1e-6; at += step) found.push(Math.abs(at) < step * 1e-9 ? 0 : at);
  return found;
}

/**
 * A trend by round with its 95 % bands.
 * series: [{name, points: [{x, value, low, high}]}]; low and high may be absent. format: of the values.
 */
function trendChart({ title, description, series, format, floor, ceiling }) {
  const drawn = series
    .map((of, hue) => ({ ...of, hue, points: of.points.filter((point) => isKnown(point.value)) }))
    .filter((of) => of.points.length);
  if (!drawn.length) return h("p", { class: "soft" }, "Nothing to draw yet.");
  const legend = drawn.length > 1 ? seriesLegend(drawn) : null;
  return h("div", null, legend, drawnToWidth((width) => trendSvg(drawn, { title, description, format, floor, ceiling, width })));
}

function seriesLegend(series) {
  return h(
    "ul",
    { class: "legend" },
    series.map(({ name, hue }) =>
      h("li", null, svg("svg", { width: 28, height: 12, "aria-hidden": "true", class: `s${hue % HUES}` }, line(0, 6, 28, 6, hue), marker(14, 6, hue)), " ", name),
    ),
  );
}

function trendSvg(series, { title, description, format, floor, ceiling, width }) {
  const height = 190, left = 52, right = 14, top = 10, bottom = 26;
  const points = series.flatMap((of) => of.points);
  const xs = [...new Set(points.map((point) => point.x))].sort((a, b) => a - b);
  let low = Math.min(...points.map((p) => (isKnown(p.low) ? p.low : p.value)));
  let high = Math.max(...points.map((p) => (isKnown(p.high) ? p.high : p.value)));
  const air = (high - low || Math.abs(high) || 1) * 0.08;
  low = isKnown(floor) ? Math.max(floor, low - air) : low - air;
  high = isKnown(ceiling) ? Math.min(ceiling, high + air) : high + air;
  if (high <= low) high = low + 1;
  const x = (at) => (xs.length < 2 ? (left + width - right) / 2 : left + 14 + ((at - xs[0]) / (xs.at(-1) - xs[0])) * (width - left - right - 28));
  const y = (at) => top + (1 - (at - low) / (high - low)) * (height - top - bottom);
  const every = Math.ceil(xs.length / Math.max(2, Math.floor(width / 44)));
  return svg(
    "svg",
    { width, height, viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": `${title}. ${description}` },
    svg("title", null, title),
    svg("desc", null, description),
    ticks(low, high, 4).map((at) => [
      svg("line", { x1: left, x2: width - right, y1: y(at), y2: y(at), class: "grid" }),
      svg("text", { x: left - 6, y: y(at) + 4, "text-anchor": "end" }, format(at)),
    ]),
    xs.filter((_, i) => i % every === 0).map((at) => svg("text", { x: x(at), y: height - 8, "text-anchor": "middle" }, `R${at}`)),
    series.map((of) => oneSeries(of, x, y, format)),
  );
}

function oneSeries({ name, points, hue }, x, y, format) {
  const banded = points.filter((point) => isKnown(point.low) && isKnown(point.high));
  const outline = [...banded.map((p) => [x(p.x), y(p.high)]), ...banded.toReversed().map((p) => [x(p.x), y(p.low)])];
  const words = (p) =>
    `${name}, round ${p.x}: ${format(p.value)}${isKnown(p.low) ? ` (${format(p.low)} to ${format(p.high)})` : ""}`;
  return svg(
    "g",
    { class: `s${hue % HUES}` },
    banded.length > 1 && svg("polygon", { points: outline.map((at) => at.join(",")).join(" "), class: "band" }),
    banded.map((p) => svg("line", { x1: x(p.x), x2: x(p.x), y1: y(p.low), y2: y(p.high), class: "whisker" })),
    points.length > 1 &&
      svg("polyline", { points: points.map((p) => `${x(p.x)},${y(p.value)}`).join(" "), class: "trend", "stroke-dasharray": DASHES[hue % 6] || null }),
    points.map((p) => svg("g", null, svg("title", null, words(p)), marker(x(p.x), y(p.value), hue))),
  );
}

function line(x1, y1, x2, y2, hue) {
  return svg("line", { x1, y1, x2, y2, class: "trend", "stroke-dasharray": DASHES[hue % 6] || null });
}

/** The series' own shape, so that colour is not needed to tell them apart. */
function marker(x, y, hue) {
  const shape = MARKS[hue % MARKS.length];
  if (shape === "circle") return svg("circle", { cx: x, cy: y, r: 3.5, class: "dot" });
  if (shape === "square") return svg("rect", { x: x - 3.2, y: y - 3.2, width: 6.4, height: 6.4, class: "dot" });
  const at = shape === "diamond" ? [[0, -4.6], [4.6, 0], [0, 4.6], [-4.6, 0]] : [[0, -4.4], [4.4, 3.4], [-4.4, 3.4]];
  return svg("polygon", { points: at.map(([dx, dy]) => `${x + dx},${y + dy}`).join(" "), class: "dot" });
}

/** How many samples have which length, right above wrong. */
function histogram({ title, values, numBins = 12 }) {
  const known = values.filter(({ value }) => isKnown(value));
  if (!known.length) return h("p", { class: "soft" }, "Nothing to count yet.");
  const low = Math.min(...known.map((of) => of.value)), high = Math.max(...known.map((of) => of.value));
  const size = Math.max(1, Math.ceil((high - low + 1) / numBins));
  const bins = Array.from({ length: Math.ceil((high - low + 1) / size) }, (_, i) => ({ from: low + i * size, right: 0, wrong: 0, none: 0 }));
  for (const { value, kind } of known) bins[Math.floor((value - low) / size)][kind] += 1;
  const words = bins.map((bin) => `${num(bin.from)} to ${num(bin.from + size - 1)}: ${num(bin.right)} right, ${num(bin.wrong)} wrong`).join("; ");
  return drawnToWidth((width) => histogramSvg({ title, words, bins, size, width }));
}

const KINDS = ["right", "wrong", "none"];

function histogramSvg({ title, words, bins, size, width }) {
  const height = 120, left = 28, bottom = 24, top = 8;
  const most = Math.max(...bins.map((bin) => bin.right + bin.wrong + bin.none));
  const slot = (width - left - 8) / bins.length;
  const y = (count) => (count / most) * (height - top - bottom);
  const every = Math.ceil(bins.length / Math.max(1, Math.floor(width / 70)));
  const columns = bins.map((bin, i) => {
    let base = height - bottom;
    return KINDS.filter((kind) => bin[kind]).map((kind) => {
      base -= y(bin[kind]);
      const text = `${num(bin.from)} to ${num(bin.from + size - 1)}: ${num(bin[kind])} ${kind === "none" ? "without a reward" : kind}`;
      return svg("rect", { x: left + i * slot + 1, y: base, width: Math.max(1, slot - 2), height: y(bin[kind]), class: `bin ${kind}` }, svg("title", null, text));
    });
  });
  return svg(
    "svg",
    { width, height, viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": `${title}. ${words}` },
    svg("line", { x1: left, x2: width - 8, y1: height - bottom, y2: height - bottom, class: "grid" }),
    svg("text", { x: left - 6, y: top + 8, "text-anchor": "end" }, num(most)),
    columns,
    bins.map((bin, i) => i % every === 0 && svg("text", { x: left + i * slot, y: height - 8 }, num(bin.from))),
  );
}

/** One whole, in parts: [{name, num, kind}] with a label in each that is wide enough. */
function partsBar(label, parts) {
  const total = parts.reduce((sum, part) => sum + part.num, 0);
  const words = parts.map((part) => `${num(part.num)} ${part.name}`).join(", ");
  if (!total) return null;
  return h(
    "div",
    { class: "parts", role: "img", "aria-label": `${label}: ${words}` },
    parts.filter((part) => part.num).map((part) =>
      h("span", { class: `part ${part.kind}`, title: `${num(part.num)} ${part.name}`, style: { "flex-grow": String(part.num) } },
        part.num / total > 0.1 ? `${part.name} ${num(part.num)}` : ""),
    ),
  );
}
