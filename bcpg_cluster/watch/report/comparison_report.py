"""Several methods over several seeds, from their rounds' reports: raw numbers, a table, a picture, one line a run.

Everything is said twice where a run is missing: a diverged run has no accuracy, so the means are over the others, and
both the table and the numbers say how many and which. Nothing here knows how the runs were made.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from bcpg_cluster.store.reports import AccuracyReport, RoundReport
from bcpg_cluster.store.whole_files import write_whole
from bcpg_cluster.watch.report.plots import comparison_png
from bcpg_cluster.watch.report.statistics import LEVEL, mean_interval, paired_test

START = "start"
"""The arm that is the untrained policy, at round 0; it is a row beside every round's arms."""

Status = Literal["finished", "diverged", "stopped_early"]
Comparison = dict[str, Any]
"""What :func:`compare` returns; plain data, the same after a way through JSON."""

COMPARED = ("sampled", "greedy")
"""The measures whose differences to the reference are columns of the table; all are in the numbers."""


@dataclass(frozen=True, slots=True)
class ArmResult:
    """One run of one method at the end of one round.

    Attributes:
        arm: the method's name, or :data:`START`.
        status: ``stopped_early`` finished by the stated early stop, and counts like ``finished``.
        learning_rate, epochs: what was tuned; ``None`` where nothing was trained.
        report: the round's report; ``None`` exactly when diverged.
        note: anything a reader should know, printed under the table.
    """

    arm: str
    seed: int
    round: int
    status: Status
    learning_rate: float | None
    report: RoundReport | None
    note: str = ""
    epochs: int | None = None

    def __post_init__(self) -> None:
        if (self.report is None) != (self.status == "diverged"):
            raise ValueError(f"{self.arm}, seed {self.seed}, round {self.round}: {self.status}, report {self.report!r}")
        if (self.arm == START) != (self.round == 0):
            raise ValueError(f"round 0 is the arm {START!r} and nothing else, got {self.arm!r} at round {self.round}")


Measure = Callable[[RoundReport], float | None]
Measures = dict[str, Measure]


def compare(results: Sequence[ArmResult], reference_arm: str, titles: Mapping[str, str] | None = None) -> Comparison:
    """Per round, arm and measure: each seed's value, the interval over seeds, the difference to the reference arm.

    Differences are paired by seed, over the seeds that both arms have at that round; ``None`` where there are none, and for
    the reference itself. A run that diverged counts as diverged at all later rounds too. A seed that other arms have but this
    one does not, without having diverged, is ``missing``.

    Raises:
        ValueError: no results, or two for the same arm, seed and round.
    """
    if not results:
        raise ValueError("there is nothing to compare")
    by_run: dict[tuple[str, int, int], ArmResult] = {}
    for result in results:
        if by_run.setdefault((result.arm, result.seed, result.round), result) is not result:
            raise ValueError(f"two results for {result.arm}, seed {result.seed}, round {result.round}")
    measures = _measures([result.report for result in results if result.report is not None])
    arms = sorted({result.arm: None for result in results}, key=lambda arm: arm != START)  # stable: START first
    return {
        "reference": reference_arm,
        "level": LEVEL,
        "seeds": _seeds(results),
        "measures": list(measures),
        "titles": {arm: (titles or {}).get(arm, arm) for arm in dict.fromkeys([*arms, reference_arm])},
        "rounds": {
            str(round_): _round(results, round_, arms, measures, reference_arm)
            for round_ in sorted({r.round for r in results if r.arm != START}) or [0]
        },
        "notes": [f"{r.arm}, seed {r.seed}, round {r.round}: {r.note}" for r in results if r.note],
    }


def _seeds(results: Iterable[ArmResult]) -> list[int]:
    """The seeds of the trained arms; the start's where nothing was trained yet."""
    everything = list(results)
    return sorted({r.seed for r in everything if r.arm != START} or {r.seed for r in everything})


def _measures(reports: Sequence[RoundReport]) -> Measures:
    """What can be read from the reports, by name, in the table's order."""
    found: Measures = {"sampled": lambda report: report.accuracy, "greedy": lambda report: report.accuracy_greedy}
    common = [{int(k) for k in report.pass_at_k} for report in reports if report.pass_at_k]
    largest = max(set.intersection(*common), default=1) if common else 1
    if largest > 1:  # pass@1 is the sampled accuracy
        found[f"pass@{largest}"] = _pass_at(str(largest))
    for test in dict.fromkeys(name for report in reports for name in report.more_tests):
        found[f"{test} sampled"] = _on_test(test, lambda of_test: of_test.accuracy)
        found[f"{test} greedy"] = _on_test(test, lambda of_test: of_test.accuracy_greedy)
    return {name: read for name, read in found.items() if any(read(report) is not None for report in reports)}


def _on_test(test: str, read: Callable[[AccuracyReport], float | None]) -> Measure:
    """The measure on a further test set; ``None`` for a report without it."""
    return lambda report: read(report.more_tests[test]) if test in report.more_tests else None


def _pass_at(k: str) -> Measure:
    return lambda report: report.pass_at_k[k].mean if k in report.pass_at_k else None


def _round(
    results: Sequence[ArmResult], round_: int, arms: Sequence[str], measures: Measures, reference: str
) -> dict[str, Any]:
    """The arms at one round, each with its runs and measures; the start stands beside them at every round."""
    table = {arm: _arm(results, round_, arm, measures) for arm in arms}
    for arm, cells in table.items():
        for name, cell in cells["measures"].items():
            theirs = table[reference]["measures"][name]["values"] if reference in table else {}
            shared = [
                seed for seed, value in cell["values"].items() if value is not None and theirs.get(seed) is not None
            ]
            cell["difference"] = None
            if shared and arm != reference:
                difference = paired_test([cell["values"][s] for s in shared], [theirs[s] for s in shared])
                cell["difference"] = asdict(difference)
    return table


def _arm(results: Sequence[ArmResult], round_: int, arm: str, measures: Measures) -> dict[str, Any]:
    of_arm = [result for result in results if result.arm == arm]
    here = {r.seed: r for r in of_arm if r.round == (0 if arm == START else round_)}
    diverged = {r.seed for r in of_arm if r.status == "diverged" and r.round <= round_}
    expected = here.keys() if arm == START else _seeds(results)
    values = {
        name: {
            str(seed): None if (report := here[seed].report) is None else read(report)
            for seed in sorted(here.keys() - diverged)
        }
        for name, read in measures.items()
    }
    return {
        "learning_rates": sorted({r.learning_rate for r in of_arm if r.learning_rate is not None}),
        "epochs": sorted({r.epochs for r in of_arm if r.epochs is not None}),
        "num_seeds": len(expected),
        "diverged": sorted(diverged),
        "stopped_early": sorted(
            seed for seed, result in here.items() if result.status == "stopped_early" and seed not in diverged
        ),
        "missing": sorted(expected - here.keys() - diverged if arm != START else []),
        "measures": {name: {"values": of, "interval": _interval(of.values())} for name, of in values.items()},
    }


def _interval(values: Iterable[float | None]) -> dict[str, Any] | None:
    known = [value for value in values if value is not None]
    return asdict(mean_interval(known)) if known else None


def markdown_table(comparison: Comparison, round_: int | None = None, measures: Sequence[str] | None = None) -> str:
    """One round (the last unless stated) as a Markdown table with its footnotes: one row an arm, percentages.

    ``measures`` takes some of the measures only (all by default).
    """
    name = _round_name(comparison, round_)
    reference = comparison["titles"][comparison["reference"]]
    shown = [name for name in comparison["measures"] if measures is None or name in measures]
    compared = [measure for measure in COMPARED if measure in shown]
    header = ["method", "learning rate", "epochs", "runs", *shown]
    header += [f"{measure} − {reference}" for measure in compared]
    rows = [
        [
            comparison["titles"][arm],
            ", ".join(f"{rate:g}" for rate in cells["learning_rates"]) or "–",
            ", ".join(map(str, cells["epochs"])) or "–",
            _runs_text(cells),
            *(_mean_text(cells, measure) for measure in shown),
            *(_difference_text(cells["measures"][measure]["difference"]) for measure in compared),
        ]
        for arm, cells in comparison["rounds"][name].items()
    ]
    lines = ["| " + " | ".join(row) + " |" for row in (header, ["---"] * len(header), *rows)]
    return "\n".join([*lines, "", *_footnotes(comparison, name, reference)]) + "\n"


def _round_name(comparison: Comparison, round_: int | None) -> str:
    return list(comparison["rounds"])[-1] if round_ is None else str(round_)


def _runs_text(cells: Mapping[str, Any]) -> str:
    """How many runs there are, and what became of those that did not simply finish."""
    parts = [
        f"{what} {len(cells[key])} of {cells['num_seeds']} (seed {', '.join(map(str, cells[key]))})"
        for key, what in (("diverged", "diverged"), ("missing", "missing"), ("stopped_early", "stopped early"))
        if cells[key]
    ]
    return "; ".join(parts) or str(cells["num_seeds"])


def _mean_text(cells: Mapping[str, Any], measure: str) -> str:
    """``41.2 ± 1.3``, marked with a dagger where it is not over all runs."""
    interval = cells["measures"][measure]["interval"]
    if interval is None:
        return "diverged" if cells["diverged"] else "–"
    spread = "" if interval["low"] is None else f" ± {50 * (interval['high'] - interval['low']):.1f}"
    return f"{100 * interval['mean']:.1f}{spread}{' †' if interval['n'] < cells['num_seeds'] else ''}"


def _difference_text(difference: Mapping[str, Any] | None) -> str:
    """``+1.2 [-0.3, +2.7], p 0.08``, in percentage points; the start of it where there is no more."""
    if difference is None:
        return "–"
    text = _points(difference["mean"])
    if difference["low"] is not None:
        text += f" [{_points(difference['low'])}, {_points(difference['high'])}]"
    if difference["p_value"] is not None:
        text += ", p < 0.001" if difference["p_value"] < 0.001 else f", p {difference['p_value']:.3f}"
    return text


def _points(difference: float) -> str:
    """Percentage points with their sign; what rounds to nothing is not negative."""
    return f"{round(100 * difference, 1) + 0.0:+.1f}"


def _footnotes(comparison: Comparison, round_name: str, reference: str) -> list[str]:
    level, seeds = f"{100 * comparison['level']:g} %", comparison["seeds"]
    notes = [
        f"After round {round_name}; seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}. Percentages. "
        f"A mean ± half of its {level} interval over seeds (Student's t, n − 1 degrees of freedom; no ± with one seed). "
        f"Differences to {reference} in percentage points, paired by seed: mean [{level} t interval], two-sided p of "
        "the paired t test (none where all differences are the same), not corrected for the number of comparisons. "
        "The spread is over seeds only: all runs answer the same test problems."
    ]
    if any(
        cell["interval"] is None or cell["interval"]["n"] < cells["num_seeds"]
        for cells in comparison["rounds"][round_name].values()
        for cell in cells["measures"].values()
    ):
        notes.append(
            "† Without the runs that have no number (diverged, missing). Such a mean flatters a method: the runs it lost "
            "are not in it."
        )
    return [line for note in notes for line in (note, "")][:-1]


def write_plot(comparison: Comparison, path: Path, round_: int | None = None) -> None:
    """One round (the last unless stated) as a picture: a dot and its interval for every arm, a small dot for every seed."""
    write_whole(path, comparison_png(comparison, _round_name(comparison, round_), COMPARED))


def write_results(directory: Path, comparison: Comparison, results: Sequence[ArmResult]) -> None:
    """Write ``comparison.json``, ``.md``, ``.png`` and ``results.csv``, each whole or not at all."""
    directory.mkdir(parents=True, exist_ok=True)
    raw = json.dumps(comparison, indent=1, allow_nan=False) + "\n"
    write_whole(directory / "comparison.json", raw.encode())
    write_whole(directory / "results.csv", _results_csv(results).encode())
    write_plot(comparison, directory / "comparison.png")
    write_whole(directory / "comparison.md", _page(comparison).encode())


def _page(comparison: Comparison) -> str:
    """All rounds' tables, the last one first, and the notes."""
    parts = ["# Comparison\n", "![sampled and greedy accuracy of every method](comparison.png)\n"]
    for round_ in reversed(comparison["rounds"]):
        parts += [f"## After round {round_}\n", markdown_table(comparison, int(round_))]
    if comparison["notes"]:
        parts += ["## Notes\n", "\n".join(f"- {note}" for note in comparison["notes"]) + "\n"]
    return "\n".join(parts)


def _results_csv(results: Sequence[ArmResult]) -> str:
    """One line a run and round; a field is empty where there is no number."""
    measures = _measures([result.report for result in results if result.report is not None])
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["arm", "seed", "round", "status", "learning_rate", "epochs", *measures, "mined_share", "note"])
    for result in results:
        report = result.report
        values = [None if report is None else read(report) for read in measures.values()]
        head = [result.arm, result.seed, result.round, result.status, result.learning_rate, result.epochs]
        writer.writerow([*head, *values, None if report is None else report.mined_share, result.note])
    return file.getvalue()
