"""method/metrics.py: hand-worked values, enumeration, and what is undefined."""

from __future__ import annotations

import math
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bcpg_cluster.watch.report.accuracy import (
    agreement,
    avg_at_n,
    cohens_kappa,
    label_quality,
    mean_pass_at_k,
    mined_share,
    paired_difference,
    pass_at_k,
)


def test_avg_at_n_by_hand():
    result = avg_at_n([2, 4, 0], [4, 4, 4])
    assert result is not None
    assert result.mean == pytest.approx(0.5)
    assert result.sampling_error == pytest.approx(math.sqrt(0.25 / 4) / 3)  # only the first problem can vary
    assert result.problems_error == pytest.approx(0.5 / math.sqrt(3))
    assert (result.num_problems, result.num_samples) == (3, 12)


def test_the_methods_own_example_of_the_sampling_error():
    # docs/method.md: Q = 30, n = 40, mean p(1-p) about 0.12 gives about 1.0 point
    result = avg_at_n([round(40 * 0.14)] * 15 + [round(40 * 0.86)] * 15, [40] * 30)
    assert result is not None and result.sampling_error is not None
    assert 100 * result.sampling_error == pytest.approx(1.0, abs=0.05)


def test_errors_that_cannot_be_known_are_none():
    assert avg_at_n([], []) is None
    one = avg_at_n([1], [1])
    assert one is not None and one.sampling_error is None and one.problems_error is None
    assert mean_pass_at_k([], [], 1) is None
    assert mean_pass_at_k([1, 1], [4, 2], 3) is None  # one problem has too few samples
    assert paired_difference({}, {}) is None
    assert mined_share(0, 0) is None
    assert agreement([None], [1]) is None
    assert cohens_kappa([1, 1], [1, 1]) is None
    assert cohens_kappa([], []) is None
    nothing = label_quality([], [])
    assert (nothing.precision, nothing.recall, nothing.f1, nothing.labelled_share) == (None, None, None, None)


@pytest.mark.parametrize("n", range(1, 8))
def test_pass_at_k_against_enumeration(n: int):
    for c in range(n + 1):
        for k in range(1, n + 1):
            draws = list(combinations([True] * c + [False] * (n - c), k))
            assert pass_at_k(c, n, k) == pytest.approx(sum(any(draw) for draw in draws) / len(draws))
        assert pass_at_k(c, n, n + 1) is None


def test_pass_at_k_is_stable_for_many_samples():
    exact = 1 - math.comb(9_997, 100) / math.comb(10_000, 100)
    assert pass_at_k(3, 10_000, 100) == pytest.approx(exact, rel=1e-12)


def test_mean_pass_at_k():
    result = mean_pass_at_k([0, 1, 2], [2, 2, 2], 1)
    assert result is not None
    assert (result.mean, result.standard_error) == (pytest.approx(0.5), pytest.approx(0.5 / math.sqrt(3)))


@pytest.mark.parametrize("wrong", [([1], [0]), ([3], [2]), ([-1], [2]), ([1], [1, 1])])
def test_counts_that_do_not_fit(wrong: tuple):
    with pytest.raises(ValueError):
        avg_at_n(*wrong)
    with pytest.raises(ValueError):
        mean_pass_at_k(*wrong, 1)


def test_k_is_at_least_one():
    with pytest.raises(ValueError):
        pass_at_k(1, 2, 0)


def test_paired_difference_cancels_what_problems_share():
    before = {"a": 0.1, "b": 0.9, "c": 0.5}
    result = paired_difference(before, {key: value + 0.05 for key, value in reversed(before.items())})
    assert result is not None
    assert result.mean == pytest.approx(0.05)
    assert result.standard_error == pytest.approx(0.0, abs=1e-9)
    result = paired_difference({"a": 0.0, "b": 0.0}, {"a": 1.0, "b": 0.0})
    assert result is not None and (result.mean, result.standard_error) == (0.5, pytest.approx(0.5))
    with pytest.raises(ValueError, match="1 problems"):
        paired_difference({"a": 0.0}, {"a": 0.0, "b": 1.0})


def test_label_quality_by_hand_by_steps_and_by_tokens():
    labels, truth = [1, 1, 0, None, 1], [1, 0, 1, 1, 1]
    by_step = label_quality(labels, truth)
    assert (by_step.precision, by_step.recall) == (pytest.approx(2 / 3), pytest.approx(2 / 4))
    assert by_step.f1 == pytest.approx(2 * (2 / 3) * 0.5 / (2 / 3 + 0.5))
    assert (by_step.labelled_share, by_step.true_share, by_step.total) == (0.6, 0.8, 5.0)
    by_token = label_quality(labels, truth, [10, 5, 20, 0, 30])
    assert (by_token.precision, by_token.recall) == (pytest.approx(40 / 45), pytest.approx(40 / 60))


def test_label_quality_where_one_side_is_undefined():
    silent = label_quality([0, 0], [1, 0])
    assert (silent.precision, silent.recall, silent.f1) == (None, 0.0, 0.0)
    all_wrong = label_quality([1, 0], [0, 0])
    assert (all_wrong.precision, all_wrong.recall, all_wrong.f1) == (0.0, None, 0.0)


@pytest.mark.parametrize("wrong", [([1], [1, 0], None), ([2], [1], None), ([1], [1], [-1.0]), ([1], [1], [1.0, 2.0])])
def test_label_quality_rejects(wrong: tuple):
    with pytest.raises(ValueError):
        label_quality(*wrong)


def test_kappa_by_hand():
    first = [1] * 25 + [0] * 25
    second = [1] * 20 + [0] * 5 + [1] * 10 + [0] * 15  # the classic 20/5/10/15 table
    assert agreement(first, second) == pytest.approx(0.7)
    assert cohens_kappa(first, second) == pytest.approx(0.4)
    assert cohens_kappa([1, 0], [0, 1]) == pytest.approx(-1.0)
    assert agreement([1, None, 0], [1, 1, None]) == 1.0  # only the first step has both
    assert mined_share(26, 118) == pytest.approx(0.2203, abs=1e-4)
    with pytest.raises(ValueError):
        mined_share(2, 1)


LABELS = st.lists(st.tuples(st.sampled_from([0, 1, None]), st.sampled_from([0, 1, None])), max_size=20)


@given(LABELS)
def test_kappa_is_symmetric_and_bounded(pairs: list[tuple]):
    first, second = [a for a, _ in pairs], [b for _, b in pairs]
    kappa = cohens_kappa(first, second)
    assert kappa == cohens_kappa(second, first)
    if kappa is not None:
        assert -1.0 <= kappa <= 1.0
        same = agreement(first, second)
        assert same is not None and kappa <= same + 1e-12


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(1, 9)).filter(lambda t: t[0] <= t[1]), min_size=1, max_size=9))
def test_pass_at_1_is_the_average(counts: list[tuple[int, int]]):
    correct, samples = [c for c, _ in counts], [n for _, n in counts]
    one, average = mean_pass_at_k(correct, samples, 1), avg_at_n(correct, samples)
    assert one is not None and average is not None
    assert one.mean == pytest.approx(average.mean)
    assert one.standard_error == (None if len(counts) == 1 else pytest.approx(average.problems_error))
