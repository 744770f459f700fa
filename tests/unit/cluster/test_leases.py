"""cluster/leases.py: how many leases a member may hold."""

from __future__ import annotations

import pytest

from bcpg_cluster.cluster.leases import InFlight, LeaseCount


def count(least: int, in_flight: InFlight | None, *num_requests: float) -> int:
    counted = LeaseCount(least, in_flight)
    for number in num_requests:
        counted.note(number)
    return counted.most


@pytest.mark.parametrize(
    ("num_requests", "most"),
    [
        ((), 2),  # nothing is known yet
        ((64.0,), 3),  # two of them are twice the engine's 64, and one is at its end
        ((16.0, 48.0), 5),  # 32 on average
        ((10.0,), 14),
        ((1.0,), 20),
        ((0.0,), 20),  # nothing was asked: all was decided, or stored
        ((1000.0,), 2),
    ],
)
def test_a_members_leases_hold_twice_what_its_engine_works_on(num_requests: tuple[float, ...], most: int):
    assert count(2, InFlight(64, 20), *num_requests) == most


def test_only_the_last_leases_count():
    assert count(2, InFlight(64, 20), *[1.0] * 40, *[64.0] * 32) == 3


def test_without_knowing_the_engine_the_number_is_fixed():
    assert count(2, None, 0.0) == 2
    assert count(5, InFlight(64, 3), 0.0) == 5  # never fewer than asked for


def test_what_is_expected_counts_like_the_first_finished_lease():
    assert count(2, InFlight(64, 20, expected=32.0)) == 5
    assert count(2, InFlight(64, 20, expected=32.0), 96.0) == 3  # 64 on average
