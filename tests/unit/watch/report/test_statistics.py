"""report/statistics.py: intervals and tests by hand, with t quantiles from printed tables."""

from __future__ import annotations

import dataclasses
import json
import math
import warnings

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bcpg_cluster.watch.report.statistics import Interval, PairedDifference, mean_interval, paired_test, share_interval

ACCURACIES = st.lists(st.integers(0, 1600), min_size=2, max_size=8).map(lambda counts: [c / 1600 for c in counts])


def test_interval_of_five_by_hand():
    # mean 3, s = sqrt(10/4); t(0.975, 4) = 2.776445
    interval = mean_interval([1.0, 2.0, 3.0, 4.0, 5.0])
    half = 2.776445 * math.sqrt(2.5 / 5)
    assert interval.mean == 3.0
    assert interval.low == pytest.approx(3 - half, abs=1e-6)
    assert interval.high == pytest.approx(3 + half, abs=1e-6)
    assert interval.half_width == pytest.approx(half, abs=1e-6)
    assert interval.n == 5


def test_interval_of_two_is_wide():
    # s = sqrt(2)/2 * 0.02, t(0.975, 1) = 12.706205: half width is 12.706 * 0.01
    interval = mean_interval([0.40, 0.42])
    assert interval.half_width == pytest.approx(12.706205 * 0.01, abs=1e-7)


def test_level_chooses_the_quantile():
    # t(0.95, 2) = 2.919986, s = 1, n = 3
    assert mean_interval([1.0, 2.0, 3.0], level=0.9).half_width == pytest.approx(2.919986 / math.sqrt(3), abs=1e-6)


def test_one_value_has_a_mean_and_no_interval():
    assert mean_interval([0.25]) == Interval(0.25, None, None, 1)
    assert mean_interval([0.25]).half_width is None


def test_equal_values_give_no_width():
    assert mean_interval([0.5, 0.5, 0.5]) == Interval(0.5, 0.5, 0.5, 3)


@pytest.mark.parametrize("values", [[], [0.1, math.nan], [math.inf]])
def test_what_has_no_mean_is_refused(values):
    with pytest.raises(ValueError):
        mean_interval(values)


@pytest.mark.parametrize("level", [0.0, 1.0, 95.0])
def test_level_is_a_share(level):
    with pytest.raises(ValueError, match="level"):
        mean_interval([0.1, 0.2], level)


def test_paired_test_by_hand():
    # differences 1, 2, 3: mean 2, s = 1, t = 2 sqrt(3); t(0.975, 2) = 4.302653.
    # With two degrees of freedom P(|T| > t) = 1 - t / sqrt(t^2 + 2), here 1 - sqrt(12 / 14).
    found = paired_test([11.0, 22.0, 33.0], [10.0, 20.0, 30.0])
    assert (found.mean, found.n) == (2.0, 3)
    assert found.low == pytest.approx(2 - 4.302653 / math.sqrt(3), abs=1e-6)
    assert found.high == pytest.approx(2 + 4.302653 / math.sqrt(3), abs=1e-6)
    assert found.p_value == pytest.approx(1 - math.sqrt(12 / 14))


def test_pairing_is_what_makes_it_sure():
    values, reference = [0.11, 0.52, 0.93], [0.10, 0.50, 0.90]
    assert paired_test(values, reference).p_value == pytest.approx(1 - math.sqrt(12 / 14))
    assert paired_test(values, reference[::-1]).p_value > 0.9


def test_equal_differences_have_no_p_value_even_after_rounding():
    assert 0.3 - 0.2 != 0.2 - 0.1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = paired_test([0.3, 0.2], [0.2, 0.1])
        same = paired_test([0.3, 0.2, 0.1], [0.3, 0.2, 0.1])
    assert found.p_value is None
    assert found.mean == found.low == found.high == pytest.approx(0.1)
    assert same == PairedDifference(0.0, 0.0, 0.0, None, 3)


def test_one_pair_has_a_difference_and_nothing_more():
    assert paired_test([0.75], [0.5]) == PairedDifference(0.25, None, None, None, 1)


@pytest.mark.parametrize(("values", "reference"), [([], []), ([0.1], [0.1, 0.2]), ([0.1, math.nan], [0.1, 0.2])])
def test_what_cannot_be_paired_is_refused(values, reference):
    with pytest.raises(ValueError):
        paired_test(values, reference)


@given(ACCURACIES, st.randoms())
def test_a_test_is_symmetric_and_agrees_with_its_interval(values, random):
    reference = [random.randrange(1600) / 1600 for _ in values]
    there, back = paired_test(values, reference), paired_test(reference, values)
    assert back.mean == pytest.approx(-there.mean)
    json.dumps(dataclasses.asdict(there), allow_nan=False)
    if there.p_value is None:
        assert back.p_value is None
        return
    assert back.p_value == pytest.approx(there.p_value)
    assert (back.low, back.high) == (pytest.approx(-there.high), pytest.approx(-there.low))
    if abs(there.p_value - 0.05) > 1e-9:
        assert (there.p_value < 0.05) == (not there.low <= 0 <= there.high)


def test_a_shares_interval_by_hand():
    """0.5 -+ 1.96 standard errors of 0.1; a share is in [0, 1], and so is its interval."""
    assert share_interval(0.5, 0.1) == pytest.approx((0.304, 0.696), abs=1e-4)
    assert share_interval(0.95, 0.1) == pytest.approx((0.754, 1.0), abs=1e-4)
    assert share_interval(0.05, 0.1) == pytest.approx((0.0, 0.246), abs=1e-4)
