"""Means over seeds with intervals, and paired tests between two methods. Student's t; scipy is loaded when called."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

LEVEL = 0.95
"""The level of every interval unless stated otherwise."""

Z_95 = 1.959964
"""Standard errors on either side of a mean in a two-sided 95 % interval by the normal distribution."""

_ROUNDING = 1e-12  # differences closer than this, relative to the values, are equal: 0.3 - 0.2 is not quite 0.2 - 0.1


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean over ``n`` values with its confidence interval ``low``..``high`` (``None`` for one value)."""

    mean: float
    low: float | None
    high: float | None
    n: int

    @property
    def half_width(self) -> float | None:
        """What stands after the plus-minus sign; ``None`` without an interval."""
        return None if self.low is None or self.high is None else (self.high - self.low) / 2


@dataclass(frozen=True, slots=True)
class PairedDifference:
    """The mean of ``n`` paired differences, its interval, and the p value of "the mean difference is 0".

    Attributes:
        low, high: confidence interval; ``None`` for one pair.
        p_value: two-sided, of the paired t test; ``None`` for one pair, and where all differences are the same: there is no
            spread to hold the mean against. The interval then has no width, and says nothing either.
    """

    mean: float
    low: float | None
    high: float | None
    p_value: float | None
    n: int


def share_interval(share: float, stderr: float) -> tuple[float, float]:
    """The 95 % interval of a share by the normal distribution, cut off at 0 and 1."""
    return max(share - Z_95 * stderr, 0.0), min(share + Z_95 * stderr, 1.0)


def mean_interval(values: Sequence[float], level: float = LEVEL) -> Interval:
    """Mean and Student-t interval with n - 1 degrees of freedom: mean -+ t * s / sqrt(n).

    Equal values give an interval of no width; a single one gives none.

    Raises:
        ValueError: no values, one that is not finite, or a level outside (0, 1).
    """
    _check(values, level)
    mean, n = fmean(values), len(values)
    if n < 2:
        return Interval(mean, None, None, n)
    half = _quantile(level, n - 1) * stdev(values) / math.sqrt(n)
    return Interval(mean, mean - half, mean + half, n)


def paired_test(values: Sequence[float], reference: Sequence[float], level: float = LEVEL) -> PairedDifference:
    """Mean of ``values - reference``, pair by pair, with the paired t test (``scipy.stats.ttest_rel``).

    Raises:
        ValueError: as :func:`mean_interval`, or the two are not of the same length.
    """
    if len(values) != len(reference):
        raise ValueError(f"{len(values)} values cannot be paired with {len(reference)}")
    _check([*values, *reference], level)
    differences = [value - other for value, other in zip(values, reference, strict=True)]
    spread = max(differences) - min(differences)
    if len(differences) < 2:
        return PairedDifference(differences[0], None, None, None, 1)
    mean = fmean(differences)
    if spread <= _ROUNDING * max(abs(value) for value in (*values, *reference)):
        return PairedDifference(mean, mean, mean, None, len(differences))
    from scipy import stats

    interval = mean_interval(differences, level)
    p_value = float(stats.ttest_rel(values, reference).pvalue)
    return PairedDifference(mean, interval.low, interval.high, p_value, len(differences))


def _quantile(level: float, degrees: int) -> float:
    """The t value that leaves (1 - level) / 2 above it."""
    from scipy import stats

    return float(stats.t.ppf((1 + level) / 2, degrees))


def _check(values: Sequence[float], level: float) -> None:
    if not values:
        raise ValueError("there is no mean of no values")
    if not all(math.isfinite(value) for value in values):
        raise ValueError(f"values must be finite, got {list(values)}")
    if not 0 < level < 1:
        raise ValueError(f"level lies between 0 and 1, got {level}")
