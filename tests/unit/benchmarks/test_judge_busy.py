"""benchmarks/judge_busy.py: leases that follow the engine's queue keep it busy, whatever a shard asks."""

from __future__ import annotations

import pytest

from bcpg_cluster.cluster.leases import InFlight
from benchmarks.judge_busy import AT_ONCE, busy_share


@pytest.mark.parametrize("mean_requests", [4, 16, 64])
def test_a_judge_pool_is_busy_while_it_has_work(mean_requests: int):
    assert busy_share(mean_requests, InFlight(AT_ONCE, 32), num_shards=300) >= 0.9


def test_two_leases_of_small_shards_leave_it_idle():
    assert busy_share(4, None, num_shards=300) < 0.2
