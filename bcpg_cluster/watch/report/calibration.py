"""Choosing lambda of Eq. 4 for a judge that scores, on steps whose truth (or a trusted label) is known.

A step counts as right when its score is *above* lambda (strictly, docs/method.md). So only the scores themselves matter:
every lambda from one score up to, not including, the next higher one gives the same labels. The curve has one point for
each such interval; steps of equal score are never told apart.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from bcpg_cluster.watch.report.statistics import Z_95


@dataclass(frozen=True, slots=True)
class LabelledStep:
    """A scored step: P(step is right) in [0, 1], whether it is right, and how many tokens it has."""

    score: float
    is_right: bool
    num_tokens: int = 1


@dataclass(frozen=True, slots=True)
class CalibrationPoint:
    """What one lambda does.

    Attributes:
        threshold: lambda: the middle of [``lower``, ``upper``), in as few decimals as stay inside, so printing loses nothing.
        lower, upper: any lambda from ``lower`` up to but not including ``upper`` gives the same labels.
        num_mined: steps with a score above it.
        precision: share of those that are right; ``None`` when there are none.
        precision_low: lower end of its 95 % Wilson interval, the steps taken as drawn one by one. (Steps of one response
            are not, so the truth is a little wider.) ``None`` with the precision.
        recall: share of the right steps that are mined; ``None`` when no step is right.
        f1: harmonic mean of both; ``None`` when either is missing, 0 when both are 0.
        mined_share: share of all steps, ``mined_token_share`` of all tokens.
    """

    threshold: float
    lower: float
    upper: float
    num_mined: int
    precision: float | None
    precision_low: float | None
    recall: float | None
    f1: float | None
    mined_share: float
    mined_token_share: float


def calibration_curve(steps: Sequence[LabelledStep]) -> list[CalibrationPoint]:
    """One point for every lambda in [0, 1] that labels the steps differently, from the lowest lambda to the highest.

    The last point mines nothing (unless a score of 1 were above 1, which none is).

    Raises:
        ValueError: no steps, a score outside [0, 1], or a step without tokens.
    """
    if not steps:
        raise ValueError("a curve needs at least one labelled step")
    for step in steps:
        if not 0.0 <= step.score <= 1.0:  # also false for NaN
            raise ValueError(f"a score is in [0, 1], got {step.score}")
        if step.num_tokens < 1:
            raise ValueError(f"a step has at least one token, got {step.num_tokens}")
    num_right, num_tokens = sum(step.is_right for step in steps), sum(step.num_tokens for step in steps)
    by_score = sorted(steps, key=lambda step: step.score, reverse=True)
    borders = sorted({0.0, *(step.score for step in steps)}, reverse=True)
    points, above, right, tokens, upper = [], 0, 0, 0, math.nextafter(1.0, 2.0)
    for lower in borders:
        while above < len(by_score) and by_score[above].score > lower:
            right += by_score[above].is_right
            tokens += by_score[above].num_tokens
            above += 1
        precision = right / above if above else None
        recall = right / num_right if num_right else None
        points.append(
            CalibrationPoint(
                threshold=short_decimal(lower, upper),
                lower=lower,
                upper=upper,
                num_mined=above,
                precision=precision,
                precision_low=_wilson_low(right, above) if above else None,
                recall=recall,
                f1=None if precision is None or recall is None else 2 * right / (above + num_right),
                mined_share=above / len(steps),
                mined_token_share=tokens / num_tokens,
            )
        )
        upper = lower
    return points[::-1]


def choose_by_precision(
    curve: Sequence[CalibrationPoint], target: float, min_mined: int = 1
) -> CalibrationPoint | None:
    """The point with the highest recall whose precision is at least ``target``; ``None`` when there is none.

    That is the lowest such lambda: precision may go up and down along the curve, recall only goes down. Of points with the
    same recall the most precise one, which is the highest lambda.

    Args:
        min_mined: points that mine fewer steps are ignored: the precision of three steps says nothing.
    """
    fit = [p for p in curve if p.precision is not None and p.precision >= target and p.num_mined >= min_mined]
    return max(fit, key=lambda p: (p.recall or 0.0, p.precision), default=None)


def choose_by_f1(curve: Sequence[CalibrationPoint], min_mined: int = 1) -> CalibrationPoint | None:
    """The point with the highest F1, of equal ones the one with the highest lambda; ``None`` when no point has an F1."""
    fit = [p for p in curve if p.f1 is not None and p.num_mined >= min_mined]
    return max(fit, key=lambda p: (p.f1 or 0.0, p.threshold), default=None)


def thin_curve(
    curve: Sequence[CalibrationPoint], number: int, keep: CalibrationPoint | None = None
) -> list[CalibrationPoint]:
    """About ``number`` points of a curve, evenly over the mined share, with both ends and ``keep``."""
    if len(curve) <= number:
        return list(curve)
    wanted = [curve[0].mined_share * (1 - index / (number - 1)) for index in range(number)] if number > 1 else []
    nearest = {min(range(len(curve)), key=lambda i: (abs(curve[i].mined_share - share), i)) for share in wanted}
    nearest |= {0, len(curve) - 1} | {index for index, point in enumerate(curve) if point is keep}
    return [curve[index] for index in sorted(nearest)]


def short_decimal(lower: float, upper: float) -> float:
    """The middle of [``lower``, ``upper``), rounded to the fewest decimals with which it stays inside.

    Raises:
        ValueError: the interval is empty.
    """
    if not lower < upper:
        raise ValueError(f"there is nothing from {lower} up to {upper}")
    middle = lower + (upper - lower) / 2
    for digits in range(18):
        rounded = round(middle, digits)
        if lower <= rounded < upper:
            return rounded
    return lower  # neighbouring floats


def _wilson_low(num_right: int, number: int) -> float:
    """Lower end of Wilson's 95 % interval of a share."""
    share, z2 = num_right / number, Z_95 * Z_95
    spread = Z_95 * math.sqrt(share * (1 - share) / number + z2 / (4 * number * number))
    return max(0.0, (share + z2 / (2 * number) - spread) / (1 + z2 / number))
