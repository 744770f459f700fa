"""cluster/scaling.py: the size of a pool by its queue."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bcpg_cluster.cluster.scaling import ScalingRule, Wishes, decide, first_wish

rules = st.builds(
    lambda low, more, target, after: ScalingRule(low, low + more, target, after),
    st.integers(1, 4), st.integers(0, 12), st.floats(0.25, 16), st.floats(0, 100),
)  # fmt: skip
loads = st.lists(
    st.tuples(st.floats(0.1, 30), st.integers(0, 200)), min_size=1, max_size=40
)  # (seconds passed, pieces)


def follow(rule: ScalingRule, size: int, steps: list[tuple[float, int]]) -> list[tuple[float, int, int]]:
    """(time, pieces, size) after every step."""
    now, wishes, found = 0.0, first_wish(size, 0.0), []
    for passed, pieces in steps:
        now += passed
        size, wishes = decide(rule, wishes, pieces, now)
        found.append((now, pieces, size))
    return found


@pytest.mark.parametrize(
    ("pieces", "size"), [(0, 1), (1, 1), (4, 1), (5, 2), (8, 2), (9, 3), (16, 4), (400, 4)]
)  # fmt: skip
def test_one_member_for_so_many_pieces_within_the_bounds(pieces: int, size: int):
    assert ScalingRule(1, 4, 4.0, 60.0).wanted(pieces) == size


def test_growing_is_at_once_and_shrinking_waits():
    rule = ScalingRule(1, 8, 2.0, 10.0)
    steps = [(1.0, 16), (1.0, 2), (8.9, 2), (0.2, 2), (1.0, 7)]
    assert [size for _, _, size in follow(rule, 1, steps)] == [8, 8, 8, 1, 4]


def test_a_wave_within_the_window_keeps_the_pool_up():
    rule = ScalingRule(1, 8, 1.0, 10.0)
    steps = [(5.0, pieces) for pieces in [6, 0, 5, 0, 4, 0, 0, 0]]
    assert [size for _, _, size in follow(rule, 1, steps)] == [6, 6, 5, 5, 4, 4, 1, 1]


def test_the_size_at_the_start_counts_as_wanted():
    assert [size for _, _, size in follow(ScalingRule(1, 8, 1.0, 10.0), 5, [(9.0, 0), (2.0, 0)])] == [5, 1]


@given(rules, st.integers(1, 20), loads)
def test_never_outside_the_bounds(rule: ScalingRule, size: int, steps: list[tuple[float, int]]):
    assert all(rule.low <= found <= rule.high for _, _, found in follow(rule, size, steps))


@given(rules, st.integers(1, 20), loads)
def test_never_smaller_than_what_was_wanted_lately(rule: ScalingRule, size: int, steps: list[tuple[float, int]]):
    found = follow(rule, size, steps)
    for now, _, held in found:
        lately = [rule.wanted(pieces) for at, pieces, _ in found if now - rule.scale_down_after_s < at <= now]
        assert held >= max(lately, default=rule.low)


@given(rules, st.integers(1, 16), st.integers(0, 200), st.lists(st.floats(0.1, 30), min_size=1, max_size=60))
def test_a_steady_queue_never_makes_it_flap(rule: ScalingRule, size: int, pieces: int, waits: list[float]):
    sizes = [size, *(found for _, _, found in follow(rule, size, [(wait, pieces) for wait in waits]))]
    changes = [(before, after) for before, after in pairwise(sizes[1:]) if before != after]
    assert len(changes) <= 1
    if sum(waits) > rule.scale_down_after_s:
        assert sizes[-1] == rule.wanted(pieces)


@given(rules, st.integers(1, 16), loads, st.integers(0, 60))
def test_a_longer_queue_never_gives_a_smaller_pool(
    rule: ScalingRule, size: int, steps: list[tuple[float, int]], more: int
):
    longer = follow(rule, size, [(passed, pieces + more) for passed, pieces in steps])
    for (_, _, with_more), (_, _, without) in zip(longer, follow(rule, size, steps), strict=True):
        assert with_more >= without


@given(rules, loads)
def test_what_is_remembered_stays_small(rule: ScalingRule, steps: list[tuple[float, int]]):
    now, wishes = 0.0, first_wish(rule.low, 0.0)
    for passed, pieces in steps:
        now += passed
        _, wishes = decide(rule, wishes, pieces, now)
        assert len(wishes) <= rule.high - rule.low + 2
        assert is_later_and_smaller(wishes)


def is_later_and_smaller(wishes: Wishes) -> bool:
    return all(a[0] <= b[0] and a[1] > b[1] for a, b in pairwise(wishes))
