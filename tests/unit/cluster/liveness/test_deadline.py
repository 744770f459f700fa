"""cluster/liveness/deadline.py: hand-worked deadlines, and what holds for all."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bcpg_cluster.cluster.liveness.deadline import FLOOR_S, DeadlineRule, LongestTimes

RULE = DeadlineRule(3600.0, max_attempts=3)


@pytest.mark.parametrize(
    ("longest_s", "attempt", "seconds"),
    [
        (None, 1, 3600.0),  # nothing is known yet
        (0.5, 1, 60.0),  # the floor
        (6.0, 1, 60.0),
        (6.1, 1, 61.0),
        (42.0, 1, 420.0),  # ten times
        (42.0, 2, 840.0),  # and twice that
        (0.5, 2, 120.0),
        (42.0, 3, 3600.0),  # the last try has all there is
        (200.0, 2, 3600.0),  # 4000, but for the ceiling
        (5000.0, 1, 3600.0),
    ],
)
def test_by_hand(longest_s: float | None, attempt: int, seconds: float):
    assert RULE.seconds(longest_s, attempt) == pytest.approx(seconds)


def test_the_try_that_decides_has_the_ceiling():
    assert RULE.seconds(42.0, 2, is_decisive=True) == 3600.0


def test_one_try_alone_is_the_last_one():
    assert DeadlineRule(500.0, max_attempts=1).seconds(1.0, 1) == 500.0


def test_a_ceiling_below_the_floor_is_kept():
    assert DeadlineRule(5.0, max_attempts=3).seconds(1.0, 1) == 5.0


rules = st.builds(
    DeadlineRule,
    ceiling_s=st.floats(1, 1e5),
    max_attempts=st.integers(1, 6),
)
durations = st.lists(st.floats(0, 1e5), min_size=1, max_size=20)


def longest_of(history: list[float]) -> float:
    times = LongestTimes()
    for seconds in history:
        times.note("judge", seconds)
    found = times.longest("judge")
    assert found is not None
    return found


@given(rules, durations, st.integers(1, 6))
def test_between_floor_and_ceiling(rule: DeadlineRule, history: list[float], attempt: int):
    seconds = rule.seconds(longest_of(history), attempt)
    assert min(FLOOR_S, rule.ceiling_s) <= seconds <= rule.ceiling_s


@given(rules, durations, durations, st.integers(1, 6))
def test_more_history_and_more_tries_never_shorten_it(
    rule: DeadlineRule, history: list[float], later: list[float], attempt: int
):
    now = rule.seconds(longest_of(history), attempt)
    assert rule.seconds(longest_of(history + later), attempt) >= now
    assert rule.seconds(longest_of(history), attempt + 1) >= now
    assert rule.seconds(longest_of(history), rule.max_attempts) == rule.ceiling_s


@given(rules, durations)
def test_what_took_as_long_before_is_never_cut_off(rule: DeadlineRule, history: list[float]):
    longest = longest_of(history)
    assert rule.seconds(longest, 1) >= min(2 * longest, rule.ceiling_s)
    assert rule.stall_s(longest) >= max(longest, FLOOR_S)


def test_kinds_have_histories_of_their_own():
    times = LongestTimes()
    assert times.longest("generate") is None
    assert times.note("generate", 7.0)
    assert not times.note("generate", 3.0)
    assert times.note("evaluate", 1.0)
    assert (times.longest("generate"), times.longest("evaluate"), times.longest("judge")) == (7.0, 1.0, None)
