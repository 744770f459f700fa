"""Pictures of comparisons. Matplotlib is loaded when called; figures are made without its global state or a display.

Colours are Okabe and Ito's, which stay apart for colour-blind readers; lines differ by marker and dashes too.
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from bcpg_cluster.store.whole_files import write_whole
from bcpg_cluster.watch.report.statistics import Interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X")
_DASHES = ("-", "--", "-.", ":")
_GREY = "#6b6b6b"
_DPI = 150
_MOST_TICKS = 8


def comparison_png(comparison: Mapping[str, Any], round_name: str, measures: Sequence[str]) -> bytes:
    """A panel for each of ``measures``: every arm's mean, interval and seeds; a line at the reference arm's mean."""
    from matplotlib.figure import Figure

    arms = list(comparison["rounds"][round_name].items())
    shown = [measure for measure in measures if measure in comparison["measures"]]
    figure = Figure(figsize=(2.6 + 3.6 * max(len(shown), 1), 1.5 + 0.42 * len(arms)), layout="constrained")
    panels = figure.subplots(1, max(len(shown), 1), sharey=True, squeeze=False)[0]
    for panel, measure in zip(panels, shown, strict=False):
        _panel(panel, comparison, arms, measure)
    panels[0].set_yticks(range(len(arms)), [_label(comparison["titles"][arm], cells) for arm, cells in arms])
    panels[0].set_ylim(len(arms) - 0.5, -0.5)  # the first arm on top
    num_seeds = len(comparison["seeds"])
    figure.suptitle(
        f"After round {round_name}: mean and {100 * comparison['level']:g} % t interval over "
        f"{num_seeds} seed{'s' if num_seeds != 1 else ''}; grey: each seed; "
        f"dashed: {comparison['titles'][comparison['reference']]}",
        fontsize=10,
    )
    return _png(figure)


def _label(title: str, cells: Mapping[str, Any]) -> str:
    """An arm's name, and how many of its runs are not in its mean."""
    lost = [f"{len(cells[key])} of {cells['num_seeds']} {key}" for key in ("diverged", "missing") if cells[key]]
    return "\n".join([title, *lost])


def _panel(panel: Axes, comparison: Mapping[str, Any], arms: Sequence[tuple[str, Any]], measure: str) -> None:
    for place, (arm, cells) in enumerate(arms):
        cell = cells["measures"][measure]
        colour = _COLOURS[1] if arm == comparison["reference"] else _COLOURS[0]
        values = [100 * value for value in cell["values"].values() if value is not None]
        panel.plot(values, [place + 0.2] * len(values), "o", color=_GREY, alpha=0.5, markersize=3, linewidth=0)
        interval = cell["interval"]
        if interval is None:
            continue
        if interval["low"] is not None:
            panel.plot([100 * interval["low"], 100 * interval["high"]], [place, place], color=colour, linewidth=2)
        panel.plot([100 * interval["mean"]], [place], "o", color=colour, markersize=7)
        if arm == comparison["reference"]:
            panel.axvline(100 * interval["mean"], color=colour, linestyle="--", linewidth=1, zorder=0)
    panel.set_title(measure, fontsize=11)
    panel.set_xlabel("accuracy, %")
    panel.tick_params(axis="y", length=0)
    _tidy(panel, "x")


def write_lines_plot(
    series: Mapping[str, Sequence[tuple[float, Interval]]],
    path: Path,
    xlabel: str,
    ylabel: str,
    *,
    as_percent: bool = True,
) -> None:
    """Write a line with an interval band for each series over its x values; the file is there whole or not at all.

    A point without an interval has no band. ``as_percent`` multiplies means and bounds by 100.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    axes = figure.subplots()
    scale = 100.0 if as_percent else 1.0
    for i, (name, points) in enumerate(series.items()):
        ordered = sorted(points, key=lambda point: point[0])
        xs = [x for x, _ in ordered]
        colour = _COLOURS[i % len(_COLOURS)]
        axes.plot(
            xs,
            [scale * interval.mean for _, interval in ordered],
            color=colour,
            marker=_MARKERS[i % len(_MARKERS)],
            linestyle=_DASHES[i % len(_DASHES)],
            markersize=5,
            label=name,
        )
        low = [math.nan if interval.low is None else scale * interval.low for _, interval in ordered]
        high = [math.nan if interval.high is None else scale * interval.high for _, interval in ordered]
        axes.fill_between(xs, low, high, color=colour, alpha=0.15, linewidth=0)
    axes.set_xlabel(xlabel)
    axes.set_ylabel(ylabel)
    _tidy(axes, "both")
    all_xs = sorted({x for points in series.values() for x, _ in points})
    if len(all_xs) <= _MOST_TICKS and all(float(x).is_integer() for x in all_xs):
        axes.set_xticks(all_xs)  # rounds: there is nothing between two of them
    if len(series) > 1:
        axes.legend(frameon=False, fontsize=9, handlelength=3)
    write_whole(path, _png(figure))


def stress_png(overall: Mapping[str, Any]) -> bytes:
    """What perturbations do: a panel each for flipped verdicts and the change of precision and of recall, per cent.

    Every judge and rule has a colour and a mark; bars are 95 % intervals.

    Args:
        overall: ``overall`` of ``judge-stress.json``: ``judges`` and ``rules``, each by name and perturbation.
    """
    from matplotlib.figure import Figure

    said = {**overall["judges"], **overall["rules"]}
    perturbations = [
        name for name in next(iter(said.values())) if any(of[name]["num_solutions"] for of in said.values())
    ]
    height = 1.5 + 0.14 * len(perturbations) * (len(said) + 1.5)
    figure = Figure(figsize=(10.5, height), layout="constrained")
    panels = figure.subplots(1, 3, sharey=True, squeeze=False)[0]
    titles = {"flips": "verdicts that flip", "precision": "change of precision", "recall": "change of recall"}
    for panel, (measure, title) in zip(panels, titles.items(), strict=True):
        for place, name in enumerate(said):
            shift = 0.7 * ((place + 0.5) / len(said) - 0.5)
            _marks(panel, [said[name][perturbation][measure] for perturbation in perturbations], name, place, shift)
        panel.axvline(0, color=_GREY, linewidth=1, zorder=0)
        for border in range(1, len(perturbations)):
            panel.axhline(border - 0.5, color="#dddddd", linewidth=0.6, zorder=0)
        panel.set_title(title, fontsize=11)
        panel.set_xlabel("% of steps" if measure == "flips" else "points")
        panel.tick_params(axis="y", length=0)
        _tidy(panel, "x")
    panels[0].set_yticks(range(len(perturbations)), perturbations)
    panels[0].set_ylim(max(len(perturbations), 1) - 0.5, -0.5)  # the first perturbation on top
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(len(said), 5), frameon=False, fontsize=9)
    return _png(figure)


def _marks(panel: Axes, intervals: Sequence[Mapping[str, Any] | None], name: str, place: int, shift: float) -> None:
    """One judge's or rule's estimates, a row each."""
    colour, known = _COLOURS[place % len(_COLOURS)], [(row, cell) for row, cell in enumerate(intervals) if cell]
    panel.plot(
        [100 * cell["mean"] for _, cell in known],
        [row + shift for row, _ in known],
        _MARKERS[place % len(_MARKERS)],
        color=colour,
        markersize=5,
        linewidth=0,
        label=name,
    )
    for row, cell in known:
        if cell["low"] is not None:
            panel.plot([100 * cell["low"], 100 * cell["high"]], [row + shift] * 2, color=colour, linewidth=1.5)


def _tidy(axes: Axes, grid: Literal["x", "y", "both"]) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis=grid, color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)


def _png(figure: Figure) -> bytes:
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=_DPI, metadata={"Software": None})
    return file.getvalue()
