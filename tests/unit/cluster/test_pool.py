"""cluster/pool.py on a scripted runtime and clock: leases, losses, replacements, sizes."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from bcpg_cluster.cluster.leases import Done, PoolLimits, Work
from bcpg_cluster.cluster.pool import Pool
from bcpg_cluster.cluster.runtime import MemberSpec
from bcpg_cluster.errors import DataError, EngineError, MemberLostError, StartRefusedError
from bcpg_cluster.store.faults import FaultEvent, FaultKind

Retries = list[tuple[str, str]]


@pytest.fixture
def retries() -> Retries:
    return []


@pytest.fixture
def faults() -> list[FaultEvent]:
    return []


@pytest.fixture
def make_pool(scripted: Any, clock: Any, retries: Retries, faults: list[FaultEvent]) -> Callable[..., Pool]:
    def hear(fault: FaultEvent) -> None:
        faults.append(fault)
        retries.append((fault.what, fault.cause))

    def make(size: int = 1, ready: bool = True, **limits: Any) -> Pool:
        pool = Pool(
            "work",
            scripted,
            lambda number: MemberSpec(f"work/{number}", dict, {}),
            PoolLimits(**{"leases_per_member": 2, "lease_timeout_s": 60.0, "start_timeout_s": 30.0, **limits}),
            on_fault=hear,
            clock=clock,
        )
        pool.resize(size)
        if ready:
            start(scripted)
            pool.poll()
        return pool

    return make


def start(scripted: Any) -> None:
    for call in scripted.of("ping"):
        if not call.answer.done():
            call.answer.set_result("ready")


def submit(pool: Pool, *keys: int) -> None:
    for key in keys:
        pool.submit(Work((key,), lambda member, key=key: member.call("run", key, label=f"piece {key}"), f"piece {key}"))


def work_of(scripted: Any) -> list[tuple[str, Any]]:
    """(member, key) of every run call so far."""
    return [(call.member, call.args[0]) for call in scripted.of("run")]


def test_nothing_is_handed_out_before_a_member_is_ready(scripted: Any, make_pool: Callable[..., Pool]):
    pool = make_pool(ready=False)
    submit(pool, 1)
    assert pool.poll() == []
    assert (pool.num_queued, pool.num_leased, pool.members()) == (1, 0, [])
    assert [status.state for status in pool.status()] == ["starting"]
    start(scripted)
    pool.poll()
    assert work_of(scripted) == [("work/0", 1)]
    assert [member.name for member in pool.members()] == ["work/0"]


def test_leases_go_round_and_never_exceed_the_limit(scripted: Any, make_pool: Callable[..., Pool]):
    pool = make_pool(2)
    submit(pool, 1, 2, 3, 4, 5, 6)
    pool.poll()
    assert work_of(scripted) == [("work/0", 1), ("work/1", 2), ("work/0", 3), ("work/1", 4)]
    assert (pool.num_queued, pool.num_leased) == (2, 4)
    scripted.of("run")[1].answer.set_result("two")
    assert pool.poll() == [Done((2,), "two", "work/1")]
    assert work_of(scripted)[4:] == [("work/1", 5)]  # the next lease is handed out in the same poll
    assert pool.poll() == []


def test_a_poll_looks_at_no_member_that_has_nothing_to_say(scripted: Any, make_pool: Callable[..., Pool]):
    pool = make_pool(50)
    submit(pool, *range(200))
    pool.poll()
    asked: list[int] = []
    rung: list[None] = []
    pool.on_news = lambda: rung.append(None)
    for call in scripted.of("run"):
        call.answer.done = lambda call=call, done=call.answer.done: asked.append(call.args[0]) or done()
    assert pool.poll() == []
    assert asked == []
    scripted.of("run")[60].answer.set_result("ok")  # the second lease of work/10
    assert len(rung) == 1
    assert pool.poll() == [Done((60,), "ok", "work/10")]
    assert sorted(set(asked)) == [10, 60]


def test_news_of_a_member_that_was_given_up_is_no_news(scripted: Any, make_pool: Callable[..., Pool], retries: Retries):
    pool = make_pool(2)
    submit(pool, 1, 2, 3)
    pool.poll()
    lost = pool.members()[0]
    pool.lose(lost, "missed a deadline")  # its calls end now, with an error
    assert [status.num_leases for status in pool.status()] == [1, 0]
    start(scripted)
    assert pool.poll() == []
    assert work_of(scripted)[3:] == [("work/2", 3), ("work/1", 1)]
    assert [what for what, _ in retries] == ["work/0", "piece 1", "piece 3"]


def test_a_random_schedule_does_everything_once(scripted: Any, make_pool: Callable[..., Pool]):
    rng = random.Random(3)
    pool = make_pool(3, max_attempts=50)
    submit(pool, *range(40))
    done: list[Any] = []
    for _ in range(2000):
        done += [finished.key[0] for finished in pool.poll()]
        start(scripted)
        running = [call for call in scripted.of("run") if not call.answer.done()]
        assert max(Counter(call.member for call in running).values(), default=0) <= 2
        if not running and pool.num_queued == 0:
            break
        event = rng.random()
        if event < 0.1 and pool.members():
            next(m for m in scripted.members if m.name == rng.choice(pool.members()).name).die()
        elif event < 0.2:
            pool.resize(rng.randint(1, 4))
        elif running:
            call = rng.choice(running)
            if event < 0.3:
                call.answer.set_exception(EngineError("no luck"))
            else:
                call.answer.set_result(call.args[0])
    assert sorted(done) == list(range(40))
    names = [member.name for member in scripted.members]
    assert len(set(names)) == len(names)  # a name is never used twice
    assert len(names) > 3


def test_an_engine_error_is_tried_again_first_and_elsewhere_counts(
    scripted: Any, make_pool: Callable[..., Pool], retries: Retries
):
    pool = make_pool(leases_per_member=1)
    submit(pool, 1, 2)
    pool.poll()
    scripted.of("run")[0].answer.set_exception(EngineError("out of luck"))
    assert pool.poll() == []
    assert [call.args for call in scripted.of("run")] == [(1,), (1,)]  # before piece 2
    assert retries == [("piece 1", "out of luck")]
    assert not scripted.members[0].is_killed
    scripted.of("run")[1].answer.set_result("ok")
    assert pool.poll() == [Done((1,), "ok", "work/0")]


def test_a_piece_that_keeps_failing_stops_the_run(scripted: Any, make_pool: Callable[..., Pool]):
    pool = make_pool(max_attempts=3)
    submit(pool, 7)
    pool.poll()
    for attempt in (0, 1):
        scripted.of("run")[attempt].answer.set_exception(EngineError("broken"))
        pool.poll()
    scripted.of("run")[2].answer.set_exception(EngineError("still broken"))
    with pytest.raises(EngineError, match="pool work: piece 7 failed 3 times; the last time: still broken"):
        pool.poll()


def test_bad_input_stops_at_once(scripted: Any, make_pool: Callable[..., Pool], retries: Retries):
    pool = make_pool()
    submit(pool, 1)
    pool.poll()
    error = DataError("this", rule="that", remedy="so")
    scripted.of("run")[0].answer.set_exception(error)
    with pytest.raises(DataError) as caught:
        pool.poll()
    assert caught.value is error
    assert retries == []


def test_a_dead_member_is_replaced_and_its_leases_go_first(
    scripted: Any, make_pool: Callable[..., Pool], retries: Retries
):
    pool = make_pool()
    submit(pool, 1, 2, 3)
    pool.poll()
    scripted.members[0].die()
    assert pool.poll() == []
    assert [member.name for member in scripted.members] == ["work/0", "work/1"]
    assert pool.num_queued == 3
    assert {what for what, _ in retries} == {"work/0", "piece 1", "piece 2"}
    start(scripted)
    pool.poll()
    assert {key for member, key in work_of(scripted) if member == "work/1"} == {1, 2}


def test_a_lease_that_overruns_costs_the_member_its_place(
    scripted: Any, make_pool: Callable[..., Pool], clock: Any, retries: Retries
):
    pool = make_pool(lease_timeout_s=60.0)
    submit(pool, 1)
    pool.poll()
    clock.now += 60.0
    assert pool.poll() == []
    assert not scripted.members[0].is_killed
    clock.now += 0.1
    pool.poll()
    assert scripted.members[0].is_killed
    assert ("work/0", "piece 1 took longer than 60 s") in retries
    start(scripted)
    pool.poll()
    assert work_of(scripted) == [("work/0", 1), ("work/1", 1)]


def test_a_late_answer_changes_nothing(scripted: Any, make_pool: Callable[..., Pool], clock: Any):
    pool = make_pool(lease_timeout_s=1.0)
    late = []
    scripted.on_call = late.append
    submit(pool, 1)
    pool.poll()
    old = scripted.members[0]
    old.kill = lambda: None  # a member that is cut off: it does not hear that it was ended
    clock.now += 2.0
    pool.poll()
    start(scripted)
    pool.poll()
    first, second = scripted.of("run")
    first.answer.set_result("late")
    assert pool.poll() == []
    second.answer.set_result("good")
    assert [done.result for done in pool.poll()] == ["good"]
    assert pool.poll() == []


def test_failed_starts_are_tried_again_and_then_stop_the_run(scripted: Any, make_pool: Callable[..., Pool]):
    pool = make_pool(ready=False, max_attempts=3)
    for number in range(2):
        scripted.of("ping")[number].answer.set_exception(EngineError("no memory"))
        pool.poll()
    assert len(scripted.members) == 3
    scripted.of("ping")[2].answer.set_exception(EngineError("no memory"))
    with pytest.raises(EngineError, match=r"work/2 did not start: no memory \(the last of 3 tries\)"):
        pool.poll()


def test_a_start_that_works_forgets_the_failures_before(scripted: Any, make_pool: Callable[..., Pool]):
    pool = make_pool(ready=False, max_attempts=2)
    for number in range(5):
        scripted.of("ping")[-1].answer.set_exception(EngineError("no luck"))
        pool.poll()
        start(scripted)
        pool.poll()
        scripted.members[-1].die()
        pool.lose(scripted.members[-1], f"gone {number}")
    assert len(scripted.members) == 11


def test_a_start_that_takes_too_long(scripted: Any, make_pool: Callable[..., Pool], clock: Any, retries: Retries):
    pool = make_pool(ready=False, start_timeout_s=30.0)
    clock.now += 31.0
    pool.poll()
    assert scripted.members[0].is_killed
    assert retries == [("work/0", "did not start within 30 s")]
    assert len(scripted.members) == 2


def unplaced(scripted: Any, has_node: set[str]) -> None:
    """Members of the runtime wait for a node until their name is in ``has_node``."""
    start_member = scripted.start

    def start_unplaced(spec: MemberSpec) -> Any:
        member = start_member(spec)
        member.is_placed = lambda: member.name in has_node
        return member

    scripted.start = start_unplaced


def test_the_start_limit_counts_from_the_node(
    scripted: Any, make_pool: Callable[..., Pool], clock: Any, retries: Retries
):
    has_node: set[str] = set()
    unplaced(scripted, has_node)
    pool = make_pool(ready=False, start_timeout_s=30.0, placement_timeout_s=1000.0)
    states = []
    for passed in (5.0, 30.0, 900.0):
        clock.now += passed
        pool.poll()
        states.append((pool.status()[0].state, pool.num_starting))
    assert states == [("starting", 1), ("placing", 0), ("placing", 0)]
    has_node.add("work/0")
    clock.now += 2
    pool.poll()
    assert (pool.status()[0].state, pool.num_starting) == ("starting", 1)
    clock.now += 29
    pool.poll()
    assert retries == []
    clock.now += 2
    pool.poll()
    assert retries == [("work/0", "did not start within 30 s")]


def test_without_a_node_the_pool_goes_on_with_those_it_has(
    scripted: Any, make_pool: Callable[..., Pool], clock: Any, faults: list[FaultEvent]
):
    has_node = {"work/0"}
    unplaced(scripted, has_node)
    pool = make_pool(1, placement_timeout_s=100.0)
    pool.resize(3)
    submit(pool, 1)
    clock.now += 101
    pool.poll()
    assert [(fault.kind, fault.what, fault.cause, fault.consequence) for fault in faults] == [
        (FaultKind.SHRUNK, "work/1", "found no node within 100 s", "the pool continues with 2"),
        (FaultKind.SHRUNK, "work/2", "found no node within 100 s", "the pool continues with 1"),
    ]
    assert [member.name for member in pool.members()] == ["work/0"]
    assert (pool.size, len(scripted.members)) == (1, 3)
    assert work_of(scripted) == [("work/0", 1)]


def test_without_any_node_the_run_stops(scripted: Any, make_pool: Callable[..., Pool], clock: Any):
    unplaced(scripted, set())
    pool = make_pool(2, ready=False, placement_timeout_s=100.0)
    clock.now += 101
    with pytest.raises(EngineError, match="work/0 found no node within 100 s, and pool work has no other member"):
        pool.poll()


def test_a_member_is_welcomed_before_its_first_lease(scripted: Any, clock: Any):
    """It started with what was newest then; the newest of now comes first, and what gets newer meanwhile too."""
    newest = 1
    told: dict[str, int] = {}

    def welcome(member: Any, spec: MemberSpec) -> Any:
        if told.get(member.name, spec.arguments["version"]) == newest:
            return None
        told[member.name] = newest
        return member.call("load", newest)

    pool = Pool(
        "p", scripted, lambda n: MemberSpec(f"p/{n}", dict, {"version": newest}), PoolLimits(),
        welcome=welcome, clock=clock,
    )  # fmt: skip
    pool.resize(1)
    submit(pool, 1)
    newest = 2
    start(scripted)
    pool.poll()
    assert [call.args for call in scripted.of("load")] == [(2,)]
    newest = 3
    scripted.of("load")[0].answer.set_result(None)
    pool.poll()
    assert pool.members() == []
    scripted.of("load")[1].answer.set_result(None)
    pool.poll()
    assert [call.args for call in scripted.of("load")] == [(2,), (3,)]
    assert work_of(scripted) == [("p/0", 1)]


def test_a_welcome_that_fails_costs_the_member_its_place(scripted: Any, clock: Any, retries: Retries):
    pool = Pool(
        "p", scripted, lambda n: MemberSpec(f"p/{n}", dict, {}), PoolLimits(), clock=clock,
        on_fault=lambda fault: retries.append((fault.what, fault.cause)), welcome=lambda member, spec: member.call("load"),
    )  # fmt: skip
    pool.resize(1)
    start(scripted)
    pool.poll()
    scripted.of("load")[0].answer.set_exception(MemberLostError("gone"))
    pool.poll()
    assert retries == [("p/0", "did not start: gone")]
    assert [member.name for member in scripted.members] == ["p/0", "p/1"]


def test_who_drained_through_a_push_does_not_stay(scripted: Any, make_pool: Callable[..., Pool]):
    pool = make_pool(2)
    submit(pool, 1, 2)
    pool.poll()
    pool.resize(1)
    pool.dismiss_draining()
    pool.resize(2)
    assert [s.state for s in pool.status()] == ["ready", "draining", "starting"] or [
        s.state for s in pool.status()
    ] == ["draining", "ready", "starting"]
    assert len(scripted.members) == 3


def test_settling_takes_no_work_in(scripted: Any, make_pool: Callable[..., Pool]):
    pool = make_pool(1)
    submit(pool, 1)
    pool.poll()
    scripted.of("run")[0].answer.set_result("one")
    pool.resize(2)
    start(scripted)
    pool.settle()
    assert len(pool.members()) == 2
    assert [done.result for done in pool.poll()] == ["one"]


def test_bad_input_at_start_stops_at_once(scripted: Any, make_pool: Callable[..., Pool]):
    pool = make_pool(ready=False)
    scripted.of("ping")[0].answer.set_exception(DataError("this", rule="that", remedy="so"))
    with pytest.raises(DataError):
        pool.poll()


def test_shrinking_drains(scripted: Any, make_pool: Callable[..., Pool]):
    pool = make_pool(2)
    submit(pool, 1, 2, 3)
    pool.poll()  # work/0 has 1 and 3, work/1 has 2
    pool.resize(1)
    assert sorted((s.name, s.state) for s in pool.status()) == [("work/0", "ready"), ("work/1", "draining")]
    submit(pool, 4)
    pool.poll()
    assert ("work/1", 4) not in work_of(scripted)
    assert not scripted.members[1].is_killed  # it finishes what it has
    scripted.of("run")[1].answer.set_result("two")
    assert [done.key for done in pool.poll()] == [(2,)]
    assert scripted.members[1].is_killed
    assert [s.name for s in pool.status()] == ["work/0"]
    assert len(scripted.members) == 2  # and nobody took its place


def test_shrinking_prefers_members_that_are_not_ready(scripted: Any, make_pool: Callable[..., Pool]):
    pool = make_pool(1)
    pool.resize(2)
    pool.resize(1)
    pool.poll()
    assert scripted.members[1].is_killed
    assert [member.name for member in pool.members()] == ["work/0"]


def test_growing_while_draining_keeps_the_member(scripted: Any, make_pool: Callable[..., Pool]):
    pool = make_pool(2)
    submit(pool, 1, 2)
    pool.poll()
    pool.resize(1)
    pool.resize(2)
    pool.poll()
    assert [s.state for s in pool.status()] == ["ready", "ready"]
    assert len(scripted.members) == 2


def test_growing_while_work_goes_on(scripted: Any, make_pool: Callable[..., Pool]):
    pool = make_pool(1)
    submit(pool, 1, 2, 3)
    pool.poll()
    pool.resize(3)
    start(scripted)
    pool.poll()
    assert [(m.name) for m in pool.members()] == ["work/0", "work/1", "work/2"]
    assert work_of(scripted)[2:] == [("work/1", 3)]


def test_a_draining_member_that_dies_is_not_replaced(scripted: Any, make_pool: Callable[..., Pool]):
    pool = make_pool(2)
    submit(pool, 1, 2)
    pool.poll()
    pool.resize(1)
    draining = next(s.name for s in pool.status() if s.state == "draining")
    next(m for m in scripted.members if m.name == draining).die()
    pool.poll()
    assert len(scripted.members) == 2
    assert pool.num_queued + pool.num_leased == 2


def test_winding_down(scripted: Any, make_pool: Callable[..., Pool]):
    pool = make_pool(leases_per_member=1)
    submit(pool, 1, 2, 3)
    pool.poll()
    assert pool.drop_queue() == 2
    scripted.of("run")[0].answer.set_result("one")
    submit(pool, 4)
    assert [done.key for done in pool.poll(assign=False)] == [(1,)]
    assert pool.num_leased == 0


def test_losing_a_member_that_missed_a_deadline_elsewhere(
    scripted: Any, make_pool: Callable[..., Pool], retries: Retries
):
    pool = make_pool(2)
    submit(pool, 1)
    pool.poll()
    pool.lose(pool.members()[0], "stuck in a push")
    assert scripted.members[0].is_killed
    assert retries == [("work/0", "stuck in a push"), ("piece 1", "stuck in a push")]
    pool.lose(scripted.members[0], "again")  # no longer a member: nothing happens
    assert len(retries) == 2
    assert len(scripted.members) == 3


def test_the_spec_of_a_replacement_is_asked_for_anew(scripted: Any, clock: Any):
    version = {"now": 0}
    pool = Pool("p", scripted, lambda n: MemberSpec(f"p/{n}", dict, dict(version)), PoolLimits(), clock=clock)
    pool.resize(1)
    version["now"] = 5
    start(scripted)
    pool.poll()
    pool.lose(pool.members()[0], "gone")
    assert [member.spec.arguments for member in scripted.members] == [{"now": 0}, {"now": 5}]


def test_busy_seconds(scripted: Any, make_pool: Callable[..., Pool], clock: Any):
    pool = make_pool()
    clock.now += 10
    submit(pool, 1, 2)
    pool.poll()
    clock.now += 3
    assert pool.status()[0].busy_s == 3.0
    scripted.of("run")[0].answer.set_result(1)
    pool.poll()
    clock.now += 4
    scripted.of("run")[1].answer.set_result(2)
    pool.poll()
    clock.now += 5
    assert pool.status()[0].busy_s == 7.0  # two leases at once are busy once


def test_futures_are_what_a_driver_waits_for(scripted: Any, make_pool: Callable[..., Pool]):
    pool = make_pool(ready=False)
    assert list(pool.futures()) == [scripted.of("ping")[0].answer]
    start(scripted)
    submit(pool, 1)
    pool.poll()
    assert list(pool.futures()) == [scripted.of("run")[0].answer]


def test_close_stops_all(scripted: Any, make_pool: Callable[..., Pool]):
    pool = make_pool(2)
    submit(pool, 1)
    pool.poll()
    pool.close()
    assert all(member.is_killed for member in scripted.members)
    assert isinstance(scripted.of("run")[0].answer.exception(), MemberLostError)
    assert pool.status() == []


def _refused() -> StartRefusedError:
    return StartRefusedError("no room for the cache", rule="r", remedy="m")


def test_a_start_that_would_end_the_same_is_tried_once(scripted: Any, make_pool: Callable[..., Pool], retries: Retries):
    pool = make_pool(size=2, ready=False)
    scripted.of("ping")[0].answer.set_exception(_refused())
    with pytest.raises(StartRefusedError, match="no room for the cache"):
        pool.poll()
    assert len(scripted.members) == 2 and retries == []


def test_where_a_member_has_been_running_memory_may_come_free(
    scripted: Any, make_pool: Callable[..., Pool], retries: Retries
):
    pool = make_pool()
    scripted.members[0].die()
    pool.submit(Work((1,), lambda member: member.call("run", 1), "piece 1"))
    pool.poll()
    pool.poll()  # the lease of the dead member is back, and another member starts
    scripted.of("ping")[-1].answer.set_exception(_refused())
    pool.poll()
    assert retries[-1][1].startswith("did not start: no room for the cache")
    start(scripted)
    pool.poll()
    assert [state.state for state in pool.status()] == ["ready"]
