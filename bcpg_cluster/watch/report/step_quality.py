"""How well a judge finds the first wrong step: the measures of ProcessBench (arXiv 2412.06559).

Its label is the index of the first wrong step, or -1 for a solution without one; what follows the first mistake has no truth
there. Precision and recall of single labels are in ``watch/report/accuracy.py``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from bcpg_cluster.prompts.step_truth import NO_ERROR

"""ProcessBench's label of a solution without a wrong step."""


@dataclass(frozen=True, slots=True)
class FirstErrorScore:
    """How often the first wrong step was named exactly. Shares are ``None`` where there is nothing to divide by.

    Attributes:
        acc_error: of the solutions with a wrong step, the share whose first one was named.
        acc_correct: of the solutions without one, the share for which the judge says so.
        f1: harmonic mean of the two (no precision/recall F1); 0 when both are 0.
        num_error, num_correct: solutions of either kind.
        num_unreadable: solutions on which there was no prediction; they count as wrong predictions.
    """

    acc_error: float | None
    acc_correct: float | None
    f1: float | None
    num_error: int
    num_correct: int
    num_unreadable: int


def first_error_score(predicted: Sequence[int | None], truth: Sequence[int]) -> FirstErrorScore:
    """ProcessBench's three numbers over one subset.

    Args:
        predicted: by solution, what :func:`first_error` says; ``None`` is a wrong answer.
        truth: by solution, the index of the first wrong step or :data:`NO_ERROR`.

    Raises:
        ValueError: lengths that differ, or an index below -1.
    """
    if len(predicted) != len(truth):
        raise ValueError(f"{len(predicted)} predictions for {len(truth)} solutions")
    if any(index < NO_ERROR for index in (*truth, *(index for index in predicted if index is not None))):
        raise ValueError(f"a first wrong step is an index, or {NO_ERROR} for none")
    pairs = list(zip(predicted, truth, strict=True))
    of_wrong = [said == true for said, true in pairs if true != NO_ERROR]
    of_right = [said == true for said, true in pairs if true == NO_ERROR]
    acc_error, acc_correct = _share(of_wrong), _share(of_right)
    return FirstErrorScore(
        acc_error,
        acc_correct,
        _harmonic(acc_error, acc_correct),
        len(of_wrong),
        len(of_right),
        list(predicted).count(None),
    )


def mean_f1(scores: Sequence[FirstErrorScore]) -> float | None:
    """The mean of the subsets' F1, each counting alike; ``None`` without subsets, or where one has no F1."""
    known = [score.f1 for score in scores if score.f1 is not None]
    return math.fsum(known) / len(known) if known and len(known) == len(scores) else None


def _share(hits: Sequence[bool]) -> float | None:
    return sum(hits) / len(hits) if hits else None


def _harmonic(first: float | None, second: float | None) -> float | None:
    if first is None or second is None:
        return None
    return 2 * first * second / (first + second) if first + second else 0.0
