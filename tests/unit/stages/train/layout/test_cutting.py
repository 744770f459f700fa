"""Shapes count what is computed; cuts, runs and shares waste little of it."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from bcpg_cluster.stages.train.layout.cutting import (
    Line,
    Rectangle,
    Run,
    cheapest_cuts,
    even_sums,
    runs_in_step,
)


def test_what_shapes_compute_by_hand() -> None:
    """Three rows, of 9, 5 and 4 tokens."""
    rectangle, line = Rectangle([9, 5, 4]), Line([9, 5, 4])
    assert [rectangle.tokens(0, 3), rectangle.tokens(1, 2)] == [27, 10]
    assert [line.tokens(0, 3), line.tokens(1, 2)] == [18, 9]
    assert [rectangle.num_within(0, 17), rectangle.num_within(0, 18), rectangle.num_within(1, 99)] == [1, 2, 2]
    assert [line.num_within(0, 13), line.num_within(0, 14), line.num_within(1, 99)] == [1, 2, 2]
    assert [rectangle.growing(0, 3).tolist(), line.growing(1, 2).tolist()] == [[9, 18, 27], [5, 9]]


ROWS = st.lists(st.integers(1, 60), min_size=1, max_size=30).map(lambda lengths: sorted(lengths, reverse=True))


def assert_tile(runs: list[Run], lengths: list[int], budget: int) -> None:
    """Every row once; within the budget, or of one row."""
    assert sorted(row for run in runs for row in range(run.start, run.end)) == list(range(len(lengths)))
    for run in runs:
        assert run.tokens == (run.end - run.start) * lengths[run.start]
        assert run.end - run.start == 1 or run.tokens <= budget


@given(ROWS, st.integers(1, 300))
def test_cuts_tile_the_rows(lengths: list[int], budget: int) -> None:
    assert_tile(cheapest_cuts(len(lengths), Rectangle(lengths), budget), lengths, budget)


@given(ROWS, st.integers(1, 300), st.integers(1, 5))
def test_groups_tile_the_rows_and_are_of_like_size(lengths: list[int], budget: int, world_size: int) -> None:
    groups = runs_in_step(len(lengths), Rectangle(lengths), budget, world_size)
    assert_tile([run for group in groups for run in group], lengths, budget)
    assert [len(group) for group in groups[:-1]] == [world_size] * (len(groups) - 1)
    tokens = [run.tokens for group in groups for run in group]
    assert tokens == sorted(tokens, reverse=True)


def test_groups_by_hand() -> None:
    """Two ranks and 100 tokens: 90 beside two of 45, then two of 30 beside one of 60; cut longest first, 90 waited for by 60."""
    groups = runs_in_step(6, Rectangle([90, 60, 45, 45, 30, 30]), 100, 2)
    assert [[(run.start, run.end) for run in group] for group in groups] == [[(0, 1), (2, 4)], [(1, 2), (4, 6)]]


@given(st.lists(st.integers(1, 60), max_size=30), st.integers(1, 5))
def test_sums_are_even(tokens: list[int], num_shares: int) -> None:
    """No share gets more than the sum of the turns' largest, which is what the budget was held against."""
    tokens = sorted(tokens, reverse=True)
    shares = even_sums(tokens, num_shares)
    assert sorted(index for share in shares for index in share) == list(range(len(tokens)))
    sums = [sum(tokens[index] for index in share) for share in shares]
    in_turn = [sum(tokens[share::num_shares]) for share in range(num_shares)]
    assert max(sums) <= max(in_turn) <= sum(tokens[::num_shares])


def test_sums_by_hand() -> None:
    """7 + 1, 5 + 3 and 4 + 4."""
    assert even_sums([7, 5, 4, 4, 3, 1], 3) == [[0, 5], [1, 4], [2, 3]]
