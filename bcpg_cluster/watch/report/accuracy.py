"""Numbers about policies and judges, each with its error (docs/method.md). Without a denominator: ``None``, never 0."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean over problems; ``standard_error`` treats the problems as drawn at random (``None`` for a single one)."""

    mean: float
    standard_error: float | None
    num_problems: int


@dataclass(frozen=True, slots=True)
class AverageAccuracy:
    """avg@n, with two errors that answer two questions.

    Attributes:
        mean: mean over problems of c/n.
        sampling_error: how far another draw of samples on *these* problems would lie,
            sqrt(sum_q p_q (1 - p_q) / n_q) / Q with p_q = c_q/n_q; ``None`` when a problem has a single sample.
        problems_error: how far *another set of problems* would lie: standard deviation of p_q over problems / sqrt(Q).
            It contains the sampling error; ``None`` for a single problem.
    """

    mean: float
    sampling_error: float | None
    problems_error: float | None
    num_problems: int
    num_samples: int


def avg_at_n(num_correct: Sequence[int], num_samples: Sequence[int]) -> AverageAccuracy | None:
    """avg@n over problems (often printed as pass@1); ``None`` without problems.

    Raises:
        ValueError: counts that do not fit, or a problem without samples.
    """
    _check_counts(num_correct, num_samples)
    if not num_samples:
        return None
    shares = [c / n for c, n in zip(num_correct, num_samples, strict=True)]
    over_problems = _estimate(shares)
    sampling_error = None
    if min(num_samples) > 1:
        variance = math.fsum(p * (1 - p) / n for p, n in zip(shares, num_samples, strict=True))
        sampling_error = math.sqrt(variance) / len(shares)
    return AverageAccuracy(
        over_problems.mean, sampling_error, over_problems.standard_error, len(shares), sum(num_samples)
    )


def pass_at_k(num_correct: int, num_samples: int, k: int) -> float | None:
    """Unbiased pass@k of one problem, 1 - C(n-c, k) / C(n, k); ``None`` for n < k.

    Stable form: 1 - prod over m = n-c+1..n of (1 - k/m).

    Raises:
        ValueError: counts that do not fit, or k < 1.
    """
    _check_counts([num_correct], [num_samples])
    if k < 1:
        raise ValueError(f"k is at least 1, got {k}")
    if num_samples < k:
        return None
    if num_samples - num_correct < k:
        return 1.0
    return 1.0 - math.prod(1.0 - k / m for m in range(num_samples - num_correct + 1, num_samples + 1))


def mean_pass_at_k(num_correct: Sequence[int], num_samples: Sequence[int], k: int) -> Estimate | None:
    """Mean pass@k with its standard error over problems; ``None`` without problems or where one has n < k."""
    _check_counts(num_correct, num_samples)
    values = [pass_at_k(c, n, k) for c, n in zip(num_correct, num_samples, strict=True)]
    known = [value for value in values if value is not None]
    return _estimate(known) if known and len(known) == len(values) else None


def paired_difference(before: Mapping[str, float], after: Mapping[str, float]) -> Estimate | None:
    """Mean of ``after - before`` over the same problems, with the standard error of the paired differences.

    Raises:
        ValueError: the two evaluations are not of the same problems.
    """
    if before.keys() != after.keys():
        differing = sorted(before.keys() ^ after.keys())
        raise ValueError(f"{len(differing)} problems are in one evaluation only, e.g. {differing[:3]}")
    return _estimate([after[key] - before[key] for key in before]) if before else None


@dataclass(frozen=True, slots=True)
class LabelQuality:
    """How good labels are at finding what is truly right (label 1). Masses are counts, or weights when given.

    Attributes:
        precision: of what is labelled right, the share that is; ``None`` if nothing is labelled right.
        recall: of what is right, the share labelled so; ``None`` if nothing is right.
        f1: their harmonic mean; ``None`` if there is neither.
        labelled_share: the share labelled right, for comparison with the paper's Tables 4-5.
        true_share: the share that is right.
    """

    precision: float | None
    recall: float | None
    f1: float | None
    labelled_share: float | None
    true_share: float | None
    total: float


def label_quality(
    labels: Sequence[int | None], truth: Sequence[int], weights: Sequence[float] | None = None
) -> LabelQuality:
    """Precision, recall and F1 of step labels against the truth.

    Args:
        labels: 0/1, or ``None`` for no label, which counts as 0: such a step is not mined.
        truth: 0/1.
        weights: e.g. the tokens of each step, as in the paper's Tables 4-5; ``None`` counts steps.

    Raises:
        ValueError: lengths that differ, labels other than 0/1, negative weights.
    """
    mass = [1.0] * len(labels) if weights is None else list(weights)
    if not len(labels) == len(truth) == len(mass):
        raise ValueError(f"{len(labels)} labels, {len(truth)} truths, {len(mass)} weights")
    _check_labels(labels)
    _check_labels(truth)
    if any(not (weight >= 0.0 and math.isfinite(weight)) for weight in mass):
        raise ValueError("weights are finite and not negative")
    rows = list(zip(labels, truth, mass, strict=True))
    hit = math.fsum(w for label, true, w in rows if label == 1 and true == 1)
    labelled = math.fsum(w for label, _, w in rows if label == 1)
    right = math.fsum(w for _, true, w in rows if true == 1)
    total = math.fsum(mass)
    return LabelQuality(
        precision=_ratio(hit, labelled),
        recall=_ratio(hit, right),
        f1=_ratio(2 * hit, labelled + right),
        labelled_share=_ratio(labelled, total),
        true_share=_ratio(right, total),
        total=total,
    )


def agreement(
    first: Sequence[int | None], second: Sequence[int | None], counts: Sequence[int] | None = None
) -> float | None:
    """Share of the steps both have labelled on which they say the same; ``None`` without such steps.

    Args:
        counts: how many steps each place stands for; one by default.
    """
    table = _confusion(first, second, counts)
    return _ratio(table[0][0] + table[1][1], sum(map(sum, table)))


def cohens_kappa(
    first: Sequence[int | None], second: Sequence[int | None], counts: Sequence[int] | None = None
) -> float | None:
    """Agreement beyond chance, (p_o - p_e) / (1 - p_e), on the steps both have labelled; ``counts`` as in :func:`agreement`.

    ``None`` without such steps, and where chance alone explains everything (both always say the same one thing).
    """
    table = _confusion(first, second, counts)
    total = sum(map(sum, table))
    observed = (table[0][0] + table[1][1]) * total
    expected = sum((table[v][0] + table[v][1]) * (table[0][v] + table[1][v]) for v in (0, 1))
    return _ratio(observed - expected, total * total - expected)  # whole numbers up to here


def mined_share(num_mined: int, num_tokens: int) -> float | None:
    """Mined tokens among the tokens of wrong responses (22 % in the paper's Table 5); ``None`` without tokens.

    Raises:
        ValueError: more mined than there are.
    """
    if not 0 <= num_mined <= num_tokens:
        raise ValueError(f"{num_mined} mined of {num_tokens} tokens")
    return _ratio(num_mined, num_tokens)


def _ratio(numerator: float, denominator: float) -> float | None:
    return numerator / denominator if denominator else None


def _estimate(values: Sequence[float]) -> Estimate:
    mean = math.fsum(values) / len(values)
    if len(values) < 2:
        return Estimate(mean, None, len(values))
    variance = math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1)
    return Estimate(mean, math.sqrt(variance / len(values)), len(values))


def _confusion(
    first: Sequence[int | None], second: Sequence[int | None], counts: Sequence[int] | None
) -> list[list[int]]:
    """Counts by (first, second) label, steps without a label from both left out."""
    numbers = [1] * len(first) if counts is None else counts
    if not len(first) == len(second) == len(numbers):
        raise ValueError(f"{len(first)} labels against {len(second)}, {len(numbers)} counts")
    _check_labels(first)
    _check_labels(second)
    table = [[0, 0], [0, 0]]
    for a, b, number in zip(first, second, numbers, strict=True):
        if a is not None and b is not None:
            table[a][b] += number
    return table


def _check_labels(labels: Sequence[int | None]) -> None:
    if any(label not in (0, 1, None) for label in labels):
        raise ValueError("labels are 0, 1 or None")


def _check_counts(num_correct: Sequence[int], num_samples: Sequence[int]) -> None:
    if len(num_correct) != len(num_samples):
        raise ValueError(f"{len(num_correct)} counts of right samples for {len(num_samples)} problems")
    for correct, samples in zip(num_correct, num_samples, strict=True):
        if samples < 1 or not 0 <= correct <= samples:
            raise ValueError(f"{correct} right of {samples} samples")
