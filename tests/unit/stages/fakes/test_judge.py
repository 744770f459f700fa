"""stages/fakes/judge.py: its errors come as often, and as often together, as was asked."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
from scipy.stats import multivariate_normal, norm

from bcpg_cluster.stages.fakes.judge import FakeJudge
from bcpg_cluster.stages.judge.protocol import JudgeCase

NUM_CASES, NUM_RIGHT, NUM_STEPS = 4000, 2, 5
BASE_RATE = NUM_RIGHT / NUM_STEPS
CASES = [JudgeCase(f"case {index}", tuple(f"step {k}" for k in range(NUM_STEPS))) for index in range(NUM_CASES)]


def truth(case: JudgeCase) -> Sequence[bool]:
    return [index < NUM_RIGHT for index in range(NUM_STEPS)]


def judge(name: str, precision: float, recall: float, correlation: float = 0.0, ensemble: str = "e") -> FakeJudge:
    return FakeJudge(
        name,
        precision=precision,
        recall=recall,
        base_rate=BASE_RATE,
        truth=truth,
        correlation=correlation,
        ensemble=ensemble,
    )


def says_right(asked: FakeJudge) -> list[list[bool]]:
    return [[said.label == 1 for said in judgements] for judgements in asked.judge(CASES).judgements]


def quality(labels: list[list[bool]]) -> tuple[float, float]:
    called = sum(label for steps in labels for label in steps)
    hits = sum(label for steps in labels for label in steps[:NUM_RIGHT])
    return hits / called, hits / (NUM_CASES * NUM_RIGHT)


def phi(first: list[bool], second: list[bool]) -> float:
    """Correlation of two series of errors."""
    mean_1, mean_2 = sum(first) / len(first), sum(second) / len(second)
    both = sum(a and b for a, b in zip(first, second, strict=True)) / len(first)
    return (both - mean_1 * mean_2) / math.sqrt(mean_1 * (1 - mean_1) * mean_2 * (1 - mean_2))


def errors(labels: list[list[bool]], *, of_right: bool) -> list[bool]:
    return [
        (not label) if of_right else label
        for steps in labels
        for label in (steps[:NUM_RIGHT] if of_right else steps[NUM_RIGHT:])
    ]


@pytest.mark.parametrize("precision", [0.7, 0.8, 0.9, 1.0])
@pytest.mark.parametrize("recall", [0.7, 0.8, 0.9, 1.0])
@pytest.mark.parametrize("correlation", [0.0, 0.5])
def test_precision_and_recall_are_what_was_asked(precision: float, recall: float, correlation: float):
    found = quality(says_right(judge("a", precision, recall, correlation)))
    assert found == pytest.approx((precision, recall), abs=0.015)  # 3 standard errors of 8000 right steps at 0.7
    assert (found[0] == 1.0) == (precision == 1.0) and (found[1] == 1.0) == (recall == 1.0)


def test_half_errors_meet_as_often_as_worked_out_by_hand():
    # P(both latents above 0) = 1/4 + asin(1/2) / (2 pi) = 1/3, so phi = (1/3 - 1/4) / (1/4) = 1/3.
    first, second = (errors(says_right(judge(name, 1.0, 0.5, 0.5)), of_right=True) for name in "ab")
    assert sum(a and b for a, b in zip(first, second, strict=True)) / len(first) == pytest.approx(1 / 3, abs=0.016)
    assert phi(first, second) == pytest.approx(1 / 3, abs=0.033)


@pytest.mark.parametrize("correlation", [0.0, 0.3, 0.5, 0.9])
@pytest.mark.parametrize("of_right", [True, False])
def test_errors_are_correlated_as_the_latents_say(correlation: float, of_right: bool):
    first, second = (errors(says_right(judge(name, 0.8, 0.8, correlation)), of_right=of_right) for name in "ab")
    rate = 0.2 if of_right else 0.8 * BASE_RATE * 0.2 / (0.8 * (1 - BASE_RATE))
    at = norm.ppf(rate)
    both = multivariate_normal([0, 0], [[1, correlation], [correlation, 1]]).cdf([at, at])
    expected = (both - rate * rate) / (rate * (1 - rate))
    assert phi(first, second) == pytest.approx(expected, abs=0.04)


def test_judges_that_share_everything_say_the_same_and_others_do_not():
    one, same, other = judge("a", 0.8, 0.8, 1.0), judge("b", 0.8, 0.8, 1.0), judge("b", 0.8, 0.8, 1.0, "another")
    assert says_right(one) == says_right(same) != says_right(other)


def test_a_worse_judge_of_the_same_name_errs_wherever_the_better_one_does():
    better, worse = (says_right(judge("a", 0.9, recall, 0.5)) for recall in (0.9, 0.7))
    assert set(find(better, False)) < set(find(worse, False))


def find(labels: list[list[bool]], label: bool) -> list[tuple[int, int]]:
    return [(i, k) for i, steps in enumerate(labels) for k in range(NUM_RIGHT) if steps[k] is label]


def test_the_version_says_what_is_shared_and_is_as_before_where_nothing_is():
    assert judge("a", 0.9, 0.9).version == "a/0.9/0.0666667"
    versions = {judge("a", 0.9, 0.9, rho, name).version for rho in (0.0, 0.3, 0.5) for name in ("e", "f")}
    assert len(versions) == 1 + 2 * 2


@pytest.mark.parametrize("correlation", [-0.1, 1.1])
def test_a_correlation_out_of_range_is_refused(correlation: float):
    with pytest.raises(ValueError, match="in \\[0, 1\\]"):
        judge("a", 0.9, 0.9, correlation)


def test_a_quality_that_no_judge_can_have_is_refused():
    # Where 81 % of the steps are right, whoever calls all of them right has a precision of 0.81 already.
    with pytest.raises(ValueError, match=r"impossible at base rate 0\.81"):
        FakeJudge(precision=0.7, recall=1.0, base_rate=0.81)
