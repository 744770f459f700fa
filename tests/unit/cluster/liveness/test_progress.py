"""cluster/liveness/progress.py: marks reach the call whose thread made them, or that a thread made for it."""

from __future__ import annotations

import threading
from typing import Any

from bcpg_cluster.cluster.liveness.progress import CallsUnderWay, present_work


def test_each_call_has_marks_of_its_own(clock: Any):
    calls = CallsUnderWay(clock)
    assert calls.idle_s() == {}
    with calls.doing("judge round 1 shard 0"):
        clock.now += 30
        with calls.doing("judge round 1 shard 1"):
            clock.now += 10
            assert calls.idle_s() == {"judge round 1 shard 0": 40, "judge round 1 shard 1": 10}
            present_work().mark()
            assert calls.idle_s() == {"judge round 1 shard 0": 40, "judge round 1 shard 1": 0}
        present_work().mark()
        assert calls.idle_s() == {"judge round 1 shard 0": 0}
    assert calls.idle_s() == {}
    present_work().mark()  # nothing is under way: it goes nowhere


def test_an_engine_marks_for_the_caller_that_waits(clock: Any):
    calls = CallsUnderWay(clock)
    with calls.doing("generate"):
        work = present_work()
        clock.now += 50
        engine = threading.Thread(target=work.mark)
        engine.start()
        engine.join()
        assert calls.idle_s() == {"generate": 0}


def test_a_call_that_fails_is_over(clock: Any):
    calls = CallsUnderWay(clock)
    try:
        with calls.doing("generate"):
            raise ValueError
    except ValueError:
        assert calls.idle_s() == {}
