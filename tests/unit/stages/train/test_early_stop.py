"""The early stop: a drift of right responses that lies far below zero and still falls."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bcpg_cluster.stages.train.early_stop import falls_without_end

DRIFTS = st.lists(st.none() | st.floats(-5, 5), max_size=30)


@pytest.mark.parametrize(
    ("deltas", "stops"),
    [
        ([-1.0, -1.0, -2.0, -2.0], True),  # -2 is below -0.5 and below -1
        ([0.0, 0.0, -2.0, -2.0], True),
        ([-2.0, -2.0, -1.0, -1.0], False),  # far below, but rising again
        ([-2.0, -2.0, -2.0, -2.0], False),  # it rests
        ([0.3, 0.3, -0.4, -0.4], False),  # falls, within the limit
        ([0.0, 0.0, -0.5, -0.5], False),  # exactly at the limit is not below it
        ([-1.0, -2.0, -3.0], False),  # fewer than two windows
        ([-9.0, -1.0, -1.0, -2.0, -2.0], True),  # what lies before both windows is forgotten
        ([9.0, 9.0, -2.0, -2.0, -1.0, -1.0], False),
        ([-1.0, None, None, -2.0], True),  # a step without right responses is left out of the mean
        ([None, None, -2.0, -2.0], False),  # nothing to compare with
        ([-2.0, -2.0, None, None], False),
        ([None] * 8, False),
    ],
)
def test_worked_examples(deltas: list[float | None], stops: bool) -> None:
    assert falls_without_end(deltas, 0.5, 2) is stops


@given(DRIFTS, st.integers(1, 6))
def test_a_limit_of_zero_never_stops(deltas: list[float | None], window: int) -> None:
    assert not falls_without_end(deltas, 0.0, window)


@given(DRIFTS, st.floats(0.01, 3), st.floats(0.01, 3), st.integers(1, 6))
def test_a_wider_limit_stops_no_more_often(deltas: list[float | None], one: float, another: float, window: int) -> None:
    if falls_without_end(deltas, max(one, another), window):
        assert falls_without_end(deltas, min(one, another), window)


@given(DRIFTS, DRIFTS, st.floats(0.01, 3), st.integers(1, 6))
def test_only_two_windows_count(
    past: list[float | None], deltas: list[float | None], limit: float, window: int
) -> None:
    if len(deltas) >= 2 * window:
        assert falls_without_end([*past, *deltas], limit, window) == falls_without_end(deltas, limit, window)


def test_a_window_has_a_step() -> None:
    with pytest.raises(ValueError, match="window 0"):
        falls_without_end([], 0.5, 0)
