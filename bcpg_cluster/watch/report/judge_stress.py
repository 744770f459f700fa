"""How a judge bears perturbed solutions: flipped verdicts, and what became of precision, recall and scores.

Every number is paired (the same steps before and after) and has a 95 % interval over solutions: whole solutions are drawn anew,
since steps of one response share their fate. Plain data out, the same after a way through JSON.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from bcpg_cluster.stages.judge.stress.perturbed import Effect
from bcpg_cluster.watch.report.statistics import LEVEL, Interval

NUM_RESAMPLES = 2000

_COUNTS = (
    *("pairs", "flips", "to_wrong", "to_right", "num_lost", "changed", "caught"),
    *("hit_before", "said_before", "right_before", "hit_after", "said_after", "right_after"),
    *("scored", "rise", "scored_right", "rise_right", "scored_wrong", "rise_wrong"),
)
_AT = {name: place for place, name in enumerate(_COUNTS)}


@dataclass(frozen=True, slots=True)
class StressedSolution:
    """What a judge said of one solution's original steps, before and after a perturbation.

    Attributes:
        effects: by step, what the perturbation did to its truth.
        truth_before, truth_after: 1, 0, or ``None`` where it is not known.
        before, after: the labels, ``None`` without a verdict; of a consensus rule likewise.
        scores_before, scores_after: of a judge that scores; empty for others.
    """

    effects: Sequence[Effect]
    truth_before: Sequence[int | None]
    truth_after: Sequence[int | None]
    before: Sequence[int | None]
    after: Sequence[int | None]
    scores_before: Sequence[float | None] = ()
    scores_after: Sequence[float | None] = ()


def stress_facts(solutions: Sequence[StressedSolution], seed: int = 0) -> dict[str, Any]:
    """What one perturbation does to one judge or rule. An estimate is ``None`` where there is nothing to divide by.

    Returns:
        ``num_solutions``; ``num_steps``, those whose truth the perturbation keeps and that have a verdict before and after;
        ``num_lost``, steps that have none after it and had one before; ``num_changed``, steps made wrong that have a verdict.
        Each of the others is an interval (``mean``, ``low``, ``high``, ``n``, the solutions):
        ``flips``: of ``num_steps``, the share whose verdict differs, apart as ``to_wrong`` and ``to_right``.
        ``caught``: of ``num_changed``, the share that is called wrong.
        ``precision``, ``recall``: their change, for the label "right", over the steps of known truth.
        ``score``: the mean change of score over steps whose truth is kept; ``score_right``, ``score_wrong`` of right and of wrong
        ones.
    """
    table = np.array([_counted(solution) for solution in solutions], dtype=float).reshape(-1, len(_COUNTS))
    totals = table.sum(axis=0)
    estimates = _Estimates(table, seed)
    facts: dict[str, Any] = {
        "num_solutions": len(solutions),
        "num_steps": int(totals[_AT["pairs"]]),
        "num_lost": int(totals[_AT["num_lost"]]),
        "num_changed": int(totals[_AT["changed"]]),
    }
    shares = {"flips": "pairs", "to_wrong": "pairs", "to_right": "pairs", "caught": "changed"}
    means = {"rise": "scored", "rise_right": "scored_right", "rise_wrong": "scored_wrong"}
    found = {name: estimates.share(name, of) for name, of in shares.items()}
    found |= {name: estimates.change("hit", total) for name, total in (("precision", "said"), ("recall", "right"))}
    found |= {name.replace("rise", "score"): estimates.mean(name, of) for name, of in means.items()}
    return facts | {name: None if interval is None else asdict(interval) for name, interval in found.items()}


class _Estimates:
    """Ratios of summed counts, over all solutions and over resamples of them."""

    def __init__(self, table: np.ndarray, seed: int) -> None:
        self._table = table  # [solutions, counts]
        num = len(table)
        draws = np.random.default_rng(seed).multinomial(num, [1 / num] * num, size=NUM_RESAMPLES) if num else None
        self._sums = None if draws is None else draws @ table  # [resamples, counts]

    def mean(self, part: str, whole: str) -> Interval | None:
        """The ratio of two summed counts."""
        return self._interval(lambda sums: _ratio(sums, part, whole), whole)

    def share(self, part: str, whole: str) -> Interval | None:
        """As :meth:`mean`, of a share. Resamples of all or nothing have no spread; then the bound is the exact one for solutions.

        That is Clopper and Pearson's for n successes of n solutions, which bounds a mean of shares over them from the safe side.
        """
        found = self.mean(part, whole)
        if found is None or found.mean not in (0.0, 1.0):
            return found
        bound = ((1 - LEVEL) / 2) ** (1 / found.n)
        low, high = (0.0, 1 - bound) if found.mean == 0.0 else (bound, 1.0)
        return Interval(found.mean, low, high, found.n)

    def change(self, part: str, whole: str) -> Interval | None:
        """A ratio after the perturbation less the same one before, from the same resamples."""
        return self._interval(
            lambda sums: (
                _ratio(sums, f"{part}_after", f"{whole}_after") - _ratio(sums, f"{part}_before", f"{whole}_before")
            ),
            f"{whole}_before",
        )

    def _interval(self, ratio: Any, whole: str) -> Interval | None:
        """The value over all solutions, and the middle of its resamples. Resamples without a denominator say nothing."""
        if self._sums is None:
            return None
        value = float(ratio(self._table.sum(axis=0, keepdims=True))[0])
        if not np.isfinite(value):
            return None
        num = int((self._table[:, _AT[whole]] > 0).sum())
        if num < 2:
            return Interval(value, None, None, num)
        drawn = ratio(self._sums)
        tail = 100 * (1 - LEVEL) / 2
        low, high = np.percentile(drawn[np.isfinite(drawn)], [tail, 100 - tail])
        return Interval(value, float(low), float(high), num)


def _ratio(sums: np.ndarray, part: str, whole: str) -> np.ndarray:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(sums[:, _AT[part]] / sums[:, _AT[whole]])


def _counted(solution: StressedSolution) -> list[float]:
    """One solution's row of counts."""
    counts = dict.fromkeys(_COUNTS, 0.0)
    rows = zip(
        solution.effects,
        solution.truth_before,
        solution.truth_after,
        solution.before,
        solution.after,
        strict=True,
    )
    for effect, true_before, true_after, before, after in rows:
        counts["num_lost"] += before is not None and after is None
        if effect is Effect.SAME and None not in (before, after):
            counts["pairs"] += 1
            counts["flips"] += before != after
            counts["to_wrong"] += before == 1 and after == 0
            counts["to_right"] += before == 0 and after == 1
        if effect is Effect.WRONG and after is not None:
            counts["changed"] += 1
            counts["caught"] += after == 0
        if None not in (true_before, true_after):
            _count_truth(counts, "before", true_before, before)
            _count_truth(counts, "after", true_after, after)
    _count_scores(counts, solution)
    return list(counts.values())


def _count_truth(counts: dict[str, float], when: str, true: int | None, label: int | None) -> None:
    counts[f"hit_{when}"] += true == 1 and label == 1
    counts[f"said_{when}"] += label == 1
    counts[f"right_{when}"] += true == 1


def _count_scores(counts: dict[str, float], solution: StressedSolution) -> None:
    scores = zip(solution.scores_before, solution.scores_after, strict=True)
    for (before, after), effect, true in zip(scores, solution.effects, solution.truth_before, strict=False):
        if effect is Effect.SAME and before is not None and after is not None:
            for kind in ("", "_right") if true == 1 else ("", "_wrong") if true == 0 else ("",):
                counts[f"scored{kind}"] += 1
                counts[f"rise{kind}"] += after - before
