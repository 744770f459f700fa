"""The page of ``label_quality.py``: accuracy by labels, what either kind of error costs, and a picture."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from label_arms import BETAS, BLOCKS, NOTHING, START, Accuracy, Achieved, Done, Labels

from bcpg_cluster.watch.report.plots import write_lines_plot
from bcpg_cluster.watch.report.statistics import Interval, PairedDifference, mean_interval, paired_test


def accuracy_of(done: Done) -> Accuracy:
    """Raises ``ValueError`` for an arm that was only labelled."""
    if done.accuracy is None:
        raise ValueError(f"{done.arm} of seed {done.seed} was not trained")
    return done.accuracy


MEASURES: dict[str, Callable[[Done], float]] = {
    "sampled": lambda done: accuracy_of(done).sampled,
    "greedy": lambda done: accuracy_of(done).greedy,
}
QUESTIONS = {
    "errors": "Which error hurts?",
    "rules": "Which rule, of three judges of precision and recall 0.8?",
    "between": "Better judges",
    "both": "Both errors at once",
}


@dataclass(frozen=True, slots=True)
class ErrorCosts:
    """Points of accuracy per ten points of steps that are labelled wrongly, by the kind of error: slopes of a least-squares
    plane through a seed's arms of one judge, mean and interval over seeds. Below 0 the error hurts.

    Attributes:
        difference: false right less false wrong, paired by seed; below 0 where false right hurts more.
    """

    false_right: Interval
    false_wrong: Interval
    difference: PairedDifference


class Results:
    """What was run, by arm and seed."""

    def __init__(self, done: Iterable[Done]) -> None:
        self._done = {(one.arm, one.seed): one for one in done}

    def of(self, arm: str) -> dict[int, Done]:
        """An arm's seeds."""
        return {seed: done for (name, seed), done in sorted(self._done.items()) if name == arm}

    def whole_seeds(self, arms: Sequence[Labels]) -> list[int]:
        """Seeds of which all these arms are there."""
        return sorted(set.intersection(*(set(self.of(labels.name)) for labels in arms)))

    def mean(self, arm: str, seeds: Sequence[int], value: Callable[[Done], float]) -> Interval:
        """Over these seeds."""
        return mean_interval([value(self._done[arm, seed]) for seed in seeds])

    def difference(
        self, arm: str, other: str, seeds: Sequence[int], value: Callable[[Done], float]
    ) -> PairedDifference:
        """Paired by seed."""
        ours, theirs = ([value(self._done[name, seed]) for seed in seeds] for name in (arm, other))
        return paired_test(ours, theirs)


def error_costs(
    results: Results, beta: float, seeds: Sequence[int], arms: Sequence[Labels], value: Callable[[Done], float]
) -> ErrorCosts:
    """From the arms of one judge at one beta, all of them there for all of the seeds."""
    slopes = []
    for seed in seeds:
        done = [results.of(labels.name)[seed] for labels in arms if labels.rule == "single" and labels.beta == beta]
        errors = [(1.0, one.achieved.false_right, one.achieved.false_wrong) for one in done if one.achieved is not None]
        found, *_ = np.linalg.lstsq(np.array(errors), np.array([value(one) for one in done]), rcond=None)
        slopes.append((float(found[1]) / 10, float(found[2]) / 10))
    right, wrong = ([slope[kind] for slope in slopes] for kind in (0, 1))
    return ErrorCosts(mean_interval(right), mean_interval(wrong), paired_test(right, wrong))


def write_pages(done: Sequence[Done], out: Path) -> None:
    """``label-quality.md`` and ``label-quality.png``, of the blocks of which a seed is whole; nothing where none is."""
    results = Results(done)
    lines: list[str] = []
    for block, arms in BLOCKS.items():
        if seeds := results.whole_seeds(arms):
            lines += [f"## {QUESTIONS[block]}", "", *_table(results, arms, seeds), ""]
    singles = [block for block in ("errors", "between", "both") if results.whole_seeds(BLOCKS[block])]
    if not singles:
        return
    arms = [labels for block in singles for labels in BLOCKS[block]]
    seeds = results.whole_seeds(arms)
    if seeds:
        lines += [f"## What an error costs (blocks {', '.join(singles)})", "", *_costs(results, arms, seeds), ""]
        _draw(results, arms, seeds, out / "label-quality.png")
    (out / "label-quality.md").write_text("\n".join(lines))


def write_labels_page(done: Sequence[Done], out: Path) -> None:
    """``labels.md``: how right the labels are, and what they mine."""
    results = Results(done)
    named = {one.arm: one.labels for one in done}
    seeds = sorted({one.seed for one in done})
    columns: dict[str, Callable[[Achieved], float | None]] = {
        "precision": lambda a: a.precision,
        "recall": lambda a: a.recall,
        "steps falsely right": lambda a: a.false_right,
        "falsely wrong": lambda a: a.false_wrong,
        "kappa": lambda a: a.kappa,
        "tokens mined": lambda a: a.mined,
        "gradient mass mined": lambda a: a.mined_mass,
        "wrong tokens mined": lambda a: a.mined_wrong,
    }
    lines = [
        f"In %, kappa likewise; ± is the 95 % t interval over {len(seeds)} seeds.",
        "",
        f"| labels | {' | '.join(columns)} |",
        f"|---{'|---' * len(columns)}|",
    ]
    for name, labels in named.items():
        achieved = [one.achieved for one in results.of(name).values() if one.achieved is not None]
        values = [[value for a in achieved if (value := of(a)) is not None] for of in columns.values()]
        lines.append(f"| {_title(labels)} | {' | '.join(_shown(mean_interval(v)) if v else '–' for v in values)} |")
    out.mkdir(parents=True, exist_ok=True)
    (out / "labels.md").write_text("\n".join([*lines, ""]))


def _table(results: Results, arms: Sequence[Labels], seeds: Sequence[int]) -> list[str]:
    """A row an arm, over the seeds that have all of them."""
    has_plain = set(seeds) <= set(results.of(NOTHING.name))
    lines = [
        f"{len(seeds)} seeds: {', '.join(map(str, seeds))}; ± and [] are 95 % t intervals over seeds, differences paired.",
        "",
        "| labels | β | precision / recall | steps falsely right / wrong, % | kappa | mined, % of tokens / of mass "
        "| wrong tokens mined, % | sampled, % | greedy, % | sampled − β 1 | greedy − β 1 |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    rows: list[tuple[str, Labels | None]] = [(START, None), *((labels.name, labels) for labels in arms)]
    for name, labels in rows:
        cells = [_title(labels), "–" if labels is None else f"{labels.beta:g}"]
        cells += _quality([results.of(name)[seed] for seed in seeds]) if labels not in (None, NOTHING) else ["–"] * 5
        cells += [_shown(results.mean(name, seeds, value)) for value in MEASURES.values()]
        is_plain = name == NOTHING.name or not has_plain
        cells += [
            "–" if is_plain else shown_difference(results.difference(name, NOTHING.name, seeds, value))
            for value in MEASURES.values()
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _title(labels: Labels | None) -> str:
    if labels is None:
        return START
    if labels == NOTHING:
        return "no labels"
    asked = f"precision {labels.precision:g}, recall {labels.recall:g}"
    if labels.rule == "single":
        return "truth" if labels.precision == labels.recall == 1 else asked
    return f"`{labels.rule}`, {'latents ' + format(labels.correlation, 'g') if labels.correlation else 'independent'}"


def _quality(done: Sequence[Done]) -> list[str]:
    """Five cells, means over seeds."""
    achieved = [one.achieved for one in done if one.achieved is not None]

    def mean(values: Iterable[float | None], scale: float = 100.0) -> str:
        known = [value for value in values if value is not None]
        return f"{scale * sum(known) / len(known):.{1 if scale > 1 else 2}f}" if known else "–"

    return [
        f"{mean((a.precision for a in achieved), 1.0)} / {mean((a.recall for a in achieved), 1.0)}",
        f"{mean(a.false_right for a in achieved)} / {mean(a.false_wrong for a in achieved)}",
        mean((a.kappa for a in achieved), 1.0),
        f"{mean(a.mined for a in achieved)} / {mean(a.mined_mass for a in achieved)}",
        mean(a.mined_wrong for a in achieved),
    ]


def _costs(results: Results, arms: Sequence[Labels], seeds: Sequence[int]) -> list[str]:
    lines = [
        f"Points of accuracy per ten points of steps labelled wrongly; {len(seeds)} seeds. Below 0 the error hurts; the last "
        "column is below 0 where false right hurts more.",
        "",
        "| β | measure | falsely right | falsely wrong | difference |",
        "|---|---|---|---|---|",
    ]
    for beta in BETAS:
        for name, value in MEASURES.items():
            found = error_costs(results, beta, seeds, arms, value)
            both = f"{_signed(found.false_right)} | {_signed(found.false_wrong)}"
            lines.append(f"| {beta:g} | {name} | {both} | {shown_difference(found.difference)} |")
    return lines


def _draw(results: Results, arms: Sequence[Labels], seeds: Sequence[int], path: Path) -> None:
    """Sampled accuracy over the share of steps labelled wrongly, where a judge makes one kind of error alone."""
    series = {}
    for beta in BETAS:
        for title, is_of in (
            ("falsely right", lambda arm: arm.recall == 1),
            ("falsely wrong", lambda arm: arm.precision == 1),
        ):
            chosen = [arm for arm in arms if arm.rule == "single" and arm.beta == beta and is_of(arm)]
            series[f"{title}, β {beta:g}"] = [
                (100 * _error_share(results, arm, seeds), results.mean(arm.name, seeds, MEASURES["sampled"]))
                for arm in chosen
            ]
    write_lines_plot(series, path, "steps labelled wrongly, %", "sampled accuracy, %")


def _error_share(results: Results, labels: Labels, seeds: Sequence[int]) -> float:
    found = [results.of(labels.name)[seed].achieved for seed in seeds]
    return sum(a.false_right + a.false_wrong for a in found if a is not None) / len(seeds)


def _shown(value: Interval) -> str:
    half = value.half_width
    return f"{100 * value.mean:.1f}" + ("" if half is None else f" ± {100 * half:.1f}")


def _signed(value: Interval) -> str:
    bounds = "" if value.low is None or value.high is None else f" [{100 * value.low:+.1f}, {100 * value.high:+.1f}]"
    return f"{100 * value.mean:+.1f}{bounds}"


def shown_difference(value: PairedDifference) -> str:
    """In points, with its interval; an asterisk where that leaves 0 out."""
    if value.low is None or value.high is None:
        return f"{100 * value.mean:+.1f}"
    star = " \\*" if value.low > 0 or value.high < 0 else ""
    return f"{100 * value.mean:+.1f} [{100 * value.low:+.1f}, {100 * value.high:+.1f}]{star}"
