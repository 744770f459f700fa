"""When a pool gives up a lease or a member: on a scripted runtime whose members have heartbeats, and a clock."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Future
from typing import Any

import pytest

from bcpg_cluster.cluster.leases import PoolLimits, Work
from bcpg_cluster.cluster.pool import Pool
from bcpg_cluster.cluster.runtime import MemberSpec
from bcpg_cluster.errors import EngineError, MemberLostError


class Bench:
    """A pool whose members are ready at once. ``stopped`` members leave heartbeats unanswered; ``idle_s`` is what others say."""

    def __init__(self, scripted: Any, clock: Any, **limits: Any) -> None:
        self.scripted, self.clock = scripted, clock
        self.retries: list[tuple[str, str]] = []
        self.beats: list[str] = []
        self.stopped: set[str] = set()
        self.idle_s: dict[str, float] = {}
        start = scripted.start

        def start_beating(spec: MemberSpec) -> Any:
            member = start(spec)
            member.beat = lambda: self._beat(member.name)
            return member

        scripted.start = start_beating
        scripted.on_call = lambda call: call.answer.set_result("ready") if call.method == "ping" else None
        self.pool = Pool(
            "judge", scripted, lambda number: MemberSpec(f"judge/{number}", dict, {}),
            PoolLimits(**{"leases_per_member": 1, **limits}),
            on_fault=lambda fault: self.retries.append((fault.what, fault.cause)), clock=clock,
        )  # fmt: skip

    def _beat(self, member: str) -> Future[Mapping[str, float]]:
        self.beats.append(member)
        answer: Future[Mapping[str, float]] = Future()
        if member not in self.stopped:
            answer.set_result(dict(self.idle_s))
        return answer

    def submit(self, *keys: int, kind: str = "judge.llm") -> None:
        for key in keys:
            start = lambda member, key=key: member.call("run", key, label=f"piece {key}")  # noqa: E731
            self.pool.submit(Work((key,), start, f"piece {key}", kind))

    def begin(self, *keys: int, members: int = 1, kind: str = "judge.llm") -> None:
        """Pieces that are handed out at once."""
        self.pool.resize(members)
        self.submit(*keys, kind=kind)
        self.pool.poll()

    def begin_two_and_finish_one(self, members: int) -> None:
        """The first takes eight seconds; the second, which was handed out with it where there are two members, is still there."""
        self.begin(1, 2, members=members)
        self.pass_time(7)
        self.finish(1)

    def pass_time(self, seconds: float, step: float = 1.0) -> list[Any]:
        done = []
        for _ in range(round(seconds / step)):
            self.clock.now += step
            done += self.pool.poll()
        return done

    def finish(self, key: int) -> None:
        call = [call for call in self.scripted.of("run") if call.args == (key,)][-1]
        call.answer.set_result(f"result {key}")

    def lost(self) -> list[str]:
        return [what for what, _ in self.retries if what.startswith("judge/")]


@pytest.fixture
def bench(scripted: Any, clock: Any) -> Bench:
    return Bench(scripted, clock)


def test_before_the_first_is_finished_the_ceiling_counts(bench: Bench):
    bench.pool.resize(1)
    bench.submit(1)
    bench.pass_time(3600)
    assert bench.lost() == []
    bench.pass_time(2)
    assert bench.lost() == ["judge/0"]


def test_what_others_took_bounds_those_under_way_too(bench: Bench):
    """Eight seconds were enough for the first; the second, handed out with it, hangs: given up after 80, not after 3600."""
    bench.begin_two_and_finish_one(members=2)
    bench.idle_s = {"piece 2": 999.0}  # its process answers, its work does not get on
    bench.pass_time(73)
    assert bench.lost() == []
    bench.pass_time(1)
    assert bench.lost() == ["judge/1"]
    assert ("piece 2", "piece 2 took longer than 81 s") in bench.retries


def test_slow_work_that_gets_on_has_the_ceiling(bench: Bench):
    bench.begin_two_and_finish_one(members=2)
    bench.idle_s = {"piece 2": 12.0}
    bench.pass_time(3592)
    assert bench.lost() == []
    bench.pass_time(2)
    assert bench.lost() == ["judge/1"]


def test_slow_work_that_stops_getting_on_is_given_up_then(bench: Bench):
    bench.begin_two_and_finish_one(members=2)
    bench.idle_s = {"piece 2": 12.0}
    bench.pass_time(1000)
    bench.idle_s = {"piece 2": 61.0}
    bench.pass_time(11)  # a beat and a look
    assert bench.lost() == ["judge/1"]


def test_progress_of_another_lease_saves_none(scripted: Any, clock: Any):
    bench = Bench(scripted, clock, leases_per_member=2)
    bench.begin_two_and_finish_one(members=1)
    bench.submit(3)
    bench.idle_s = {"piece 3": 0.0, "piece 2": 74.0}
    bench.pass_time(74)
    assert bench.lost() == ["judge/0"]


def test_a_truly_long_lease_finishes_in_the_end(bench: Bench):
    """Its kind took a second (answers came from a cache), it takes 1,000: 60 s, 120 s, and then all it needs."""
    bench.begin(1)
    bench.pass_time(1)
    bench.finish(1)
    bench.submit(2)
    bench.pool.poll()
    began = bench.clock.now
    while len(bench.lost()) < 2:
        bench.pass_time(1)
        assert bench.clock.now - began < 190
    assert bench.clock.now - began == pytest.approx(60 + 120, abs=5)
    bench.pass_time(1000)
    bench.finish(2)
    assert [done.result for done in bench.pass_time(1)] == ["result 2"]
    assert bench.lost() == ["judge/0", "judge/1"]


def test_kinds_of_work_are_told_apart(bench: Bench):
    bench.begin(1, kind="judge.truth")
    bench.pass_time(1)
    bench.finish(1)
    bench.submit(2, kind="verify")
    bench.pass_time(3000)
    assert bench.lost() == []


def test_a_stopped_member_is_lost_after_a_minute_of_silence(bench: Bench):
    bench.begin(1, 2, members=2)
    bench.pass_time(10)
    bench.stopped = {"judge/1"}
    bench.pass_time(60)
    assert bench.lost() == []
    bench.pass_time(15)
    assert bench.lost() == ["judge/1"]
    assert ("piece 2", "did not answer a heartbeat within 60 s") in bench.retries
    assert [member.is_killed for member in bench.scripted.members] == [False, True, False]
    assert [call.member for call in bench.scripted.of("run") if call.args == (2,)] == ["judge/1", "judge/2"]


def test_late_results_of_a_stopped_member_change_nothing(bench: Bench):
    bench.begin(1)
    bench.stopped = {"judge/0"}
    bench.scripted.members[0].kill = lambda: None  # the word does not reach it
    bench.pass_time(80)
    first, second = bench.scripted.of("run")
    first.answer.set_result("late")
    assert bench.pass_time(1) == []
    second.answer.set_result("good")
    assert [done.result for done in bench.pass_time(1)] == ["good"]


def test_an_answer_just_in_time_begins_anew(bench: Bench):
    """A call of a C library that keeps the interpreter for 50 s, again and again."""
    bench.begin(1)
    slot = bench.pool._slots[0]
    for _ in range(20):
        bench.stopped = {"judge/0"}
        bench.pass_time(50)
        bench.stopped = set()
        if slot.pulse.beat is not None and not slot.pulse.beat.done():
            slot.pulse.beat.set_result({})
        bench.pass_time(5)
    assert bench.lost() == []


def test_a_driver_that_was_stopped_itself_blames_no_member(bench: Bench):
    bench.begin(1)
    bench.pass_time(1)
    bench.finish(1)
    bench.submit(2)
    bench.pass_time(10)
    bench.stopped = {"judge/0"}  # its answers lie unread
    bench.pass_time(10)
    bench.clock.now += 7000.0
    assert bench.pool.poll() == []
    assert bench.lost() == []
    bench.finish(2)
    assert [done.result for done in bench.pass_time(1)] == ["result 2"]
    assert bench.retries == []


def test_only_members_with_work_are_asked_and_each_at_most_every_five_seconds(bench: Bench):
    bench.pool.resize(3)
    bench.pass_time(60)
    assert bench.beats == []
    bench.submit(1, 2)
    bench.pool.poll()
    bench.pass_time(60)
    assert {name: bench.beats.count(name) for name in set(bench.beats)} == {"judge/0": 12, "judge/1": 12}


def test_a_large_pool_is_asked_less_often(bench: Bench):
    bench.pool.resize(1000)
    bench.submit(*range(1000))
    bench.pool.poll()
    bench.pass_time(60)
    assert len(bench.beats) == 3000  # fifty a second


def test_a_member_that_died_meanwhile_is_replaced_once(bench: Bench):
    bench.begin(1)
    bench.stopped = {"judge/0"}
    bench.pass_time(10)
    slot = bench.pool._slots[0]
    assert slot.pulse.beat is not None
    slot.pulse.beat.set_exception(MemberLostError("judge/0: gone"))
    bench.scripted.members[0].die()
    bench.pass_time(100)
    assert bench.lost() == ["judge/0"]


def test_a_last_try_that_is_lost_between_two_polls_is_told_by_the_next(scripted: Any, clock: Any):
    """Whoever settles a pool in between passes over its errors."""
    bench = Bench(scripted, clock, max_attempts=1)
    bench.begin(1)
    bench.stopped.add("judge/0")
    with pytest.raises(EngineError, match="did not answer a heartbeat"):
        for _ in range(200):
            bench.clock.now += 1.0
            bench.pool.settle()
    with pytest.raises(EngineError, match="did not answer a heartbeat"):
        bench.pool.poll()
