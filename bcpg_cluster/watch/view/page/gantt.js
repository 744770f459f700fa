// When each pool worked, and how long a round took against the least it could take.

function ganttSection(gantt) {
  if (!gantt || !gantt.lanes.length) return h("p", { class: "soft" }, "No work is recorded yet.");
  const bars = gantt.lanes.flatMap((lane) => lane.bars);
  const end = bars.reduce((latest, bar) => Math.max(latest, bar.end), gantt.start + 1);
  const stages = longestFirst(bars);
  return [
    h("ul", { class: "legend" }, stages.map((stage, i) => h("li", null, h("span", { class: `swatch ${stageClass(i)}` }), " ", plain(stage)))),
    drawnToWidth((width) => ganttSvg(gantt, end, stages, width)),
    h("p", { class: "soft small" }, "A bar is a piece of work. The chart leaves out start-up (engines that load), so a round can take longer than its bars."),
    boundsTable(gantt.bounds),
  ];
}

/** Stages by the time they took. */
function longestFirst(bars) {
  const took = new Map();
  for (const bar of bars) took.set(bar.stage, (took.get(bar.stage) || 0) + bar.end - bar.start);
  return [...took].sort((a, b) => b[1] - a[1]).map(([stage]) => stage);
}

/** Bars that overlap go on lines of their own. */
function packed(bars) {
  const lines = [];
  return bars.toSorted((a, b) => a.start - b.start).map((bar) => {
    let line = lines.findIndex((end) => end <= bar.start + 1e-6);
    if (line < 0) line = lines.push(0) - 1;
    lines[line] = bar.end;
    return { ...bar, line };
  });
}

function ganttSvg(gantt, end, stages, width) {
  const left = width < 500 ? 66 : 110, right = 10, top = 20, size = 9, gap = 8;
  const x = (time) => left + ((time - gantt.start) / (end - gantt.start)) * (width - left - right);
  let y = top;
  const lanes = gantt.lanes.map((lane) => {
    const bars = packed(lane.bars);
    const from = y;
    y += size * (1 + Math.max(0, ...bars.map((bar) => bar.line))) + gap;
    return { pool: lane.pool, bars, from };
  });
  const text = `From ${clock(gantt.start)} over ${seconds(end - gantt.start)}: ${lanes.map((lane) => `${lane.pool} ${plural(lane.bars.length, "piece")} of work`).join(", ")}.`;
  return svg(
    "svg",
    { width, height: y + 22, viewBox: `0 0 ${width} ${y + 22}`, role: "img", "aria-label": `When each pool worked. ${text}` },
    roundMarks(gantt, x, y),
    lanes.map((lane) => [
      svg("text", { x: 0, y: lane.from + 8 }, lane.pool.length > 15 ? `${lane.pool.slice(0, 14)}…` : lane.pool),
      lane.bars.map((bar) => ganttBar(bar, lane.from, size, x, stages)),
    ]),
    timeTicks(end - gantt.start, width).map((at) => svg("text", { x: x(gantt.start + at), y: y + 14, "text-anchor": "middle" }, at ? seconds(at) : "0")),
  );
}

function ganttBar(bar, from, size, x, stages) {
  const words = `${plain(bar.stage)}, round ${bar.round}: ${bar.text}`;
  const width = Math.max(1, x(bar.end) - x(bar.start));
  const style = `bar ${stageClass(stages.indexOf(bar.stage))}`;
  return svg("rect", { x: x(bar.start), y: from + bar.line * size, width, height: size - 1, class: style }, svg("title", null, words));
}

/** Ten colours; the stages after them are hollow. */
const stageClass = (index) => `g${index % 10}${index >= 10 ? " hollow" : ""}`;

/** Ticks at whole seconds, minutes or hours, whichever the span calls for. */
function timeTicks(span, width) {
  const unit = [3600, 60, 1].find((size) => span >= 3 * size) || 1;
  return ticks(0, span / unit, Math.max(2, Math.floor(width / 130))).map((at) => at * unit);
}

/** A line where each round's first work begins. */
function roundMarks(gantt, x, height) {
  const first = new Map();
  for (const bar of gantt.lanes.flatMap((lane) => lane.bars)) {
    if (isKnown(bar.round)) first.set(bar.round, Math.min(bar.start, first.has(bar.round) ? first.get(bar.round) : Infinity));
  }
  return [...first].map(([round, start]) => [
    svg("line", { x1: x(start), x2: x(start), y1: 4, y2: height, class: "grid" }),
    svg("text", { x: x(start) + 3, y: 12 }, `R${round}`),
  ]);
}

function boundsTable(bounds) {
  const rated = bounds.filter((bound) => isKnown(bound.bound_s));
  return table(
    "The least time each round could take, and what it took",
    [
      { head: "Round", cell: (b) => b.round },
      { head: "Bound", number: true, cell: (b) => shown(b.bound_s, seconds), title: "The least this round's work could take on these pools" },
      { head: "Took", number: true, cell: (b) => seconds(b.took_s) },
      { head: "Took / bound", number: true, cell: (b) => shown(isKnown(b.bound_s) && b.bound_s ? b.took_s / b.bound_s : null, fixed(2)) },
      { head: "Busy", cell: (b) => h("span", { class: "small" }, busyWords(b.busy)), title: "Of the work that each pool could have done in the round's time, the share that it did" },
      { head: "How the bound comes about", cell: (b) => h("span", { class: "small" }, b.text) },
    ],
    rated.length ? rated : bounds,
    { isCards: true },
  );
}

/** Pools by how busy they were; a dash where that is unknown. */
function busyWords(busy) {
  const pools = Object.entries(busy).sort((a, b) => b[1] - a[1]);
  return pools.map(([pool, part]) => `${pool} ${share(part)}`).join(", ") || "–";
}
