"""method/pairing.py: pairs within a prompt, mismatches between prompts."""

from __future__ import annotations

from collections import Counter
from itertools import accumulate, pairwise
from typing import get_args, get_type_hints

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bcpg_cluster.stages.train.objective import Dpo
from bcpg_cluster.stages.weigh.pairing import PAIRINGS, all_sampled, mismatches, one_to_one

sizes = st.integers(0, 9)
caps = st.integers(1, 12)
seeds = st.integers(0, 5) | st.text(max_size=3)


def test_the_config_offers_what_there_is():
    assert set(get_args(get_type_hints(Dpo)["pairing"])) == set(PAIRINGS)


@given(sizes, sizes, caps, seeds)
def test_one_to_one_uses_a_response_once_and_as_many_as_it_can(right: int, wrong: int, cap: int, seed: int | str):
    pairs = one_to_one(right, wrong, cap, seed)
    assert len(pairs) == min(right, wrong, cap)
    assert pairs == sorted(pairs) == one_to_one(right, wrong, cap, seed)
    for side, number in ((0, right), (1, wrong)):
        used = [pair[side] for pair in pairs]
        assert len(set(used)) == len(used) and set(used) <= set(range(number))


@given(sizes, sizes, caps, seeds)
def test_all_sampled_draws_distinct_pairs(right: int, wrong: int, cap: int, seed: int | str):
    pairs = all_sampled(right, wrong, cap, seed)
    assert len(pairs) == len(set(pairs)) == min(right * wrong, cap)
    assert pairs == sorted(pairs) == all_sampled(right, wrong, cap, seed)
    assert set(pairs) <= {(i, j) for i in range(right) for j in range(wrong)}


def test_with_room_for_all_of_them_every_pair_is_there():
    assert all_sampled(2, 3, 6, 0) == [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2)]
    assert one_to_one(1, 1, 8, 0) == [(0, 0)]


@pytest.mark.parametrize("pairing", PAIRINGS)
def test_another_seed_makes_other_pairs_and_every_pair_is_about_as_likely(pairing: str):
    draws = [PAIRINGS[pairing](3, 3, 2, seed) for seed in range(900)]
    seen = Counter(pair for pairs in draws for pair in pairs)
    assert len({tuple(pairs) for pairs in draws}) > 10
    assert len(seen) == 9
    assert all(150 < count < 250 for count in seen.values())  # 200 expected; the seeds are fixed, so this never varies


def owner(group_sizes: list[int]) -> list[int]:
    return [group for group, size in enumerate(group_sizes) for _ in range(size)]


def test_mismatches_by_hand():
    assert mismatches([2, 2, 2]) == [2, 3, 4, 5, 0, 1]  # the next group, the last one the first
    assert mismatches([1, 3, 2]) == [3, 4, 5, 0, 1, 2]
    # 0 1 | 2 3 4 5 | 6: the largest group holds more than half, so 0 1 6 0 for it, and 2 3 . . . . 4 of it
    assert mismatches([2, 4, 1]) == [2, 3, 0, 1, 6, 0, 4]
    assert mismatches([0, 2, 0, 1]) == [2, 2, 0]
    for alone in ([], [0], [5], [0, 3, 0]):
        assert mismatches(alone) == []


@given(st.lists(st.integers(0, 6), max_size=6))
def test_mismatches_are_of_another_group_and_as_different_as_can_be(group_sizes: list[int]):
    others = mismatches(group_sizes)
    if sum(size > 0 for size in group_sizes) < 2:
        assert others == []
        return
    of = owner(group_sizes)
    assert len(others) == len(of)
    assert all(of[sample] != of[other] for sample, other in enumerate(others))
    # The samples of a group that holds more than half can take no more than all others.
    total, largest = sum(group_sizes), max(group_sizes)
    assert len(set(others)) == min(total, 2 * (total - largest))
    edges = [0, *accumulate(group_sizes)]
    for first, last in pairwise(edges):  # nor is any response beside a group much more often than another
        counts = Counter(others[first:last])
        assert not counts or max(counts.values()) <= -(-len(others[first:last]) // (total - (last - first)))
