"""cluster/gang.py: a group that is whole or gone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from bcpg_cluster.cluster.gang import Gang
from bcpg_cluster.cluster.liveness.rank_progress import RankProgress
from bcpg_cluster.cluster.liveness.rank_watch import ProgressLimits, ProgressWatch
from bcpg_cluster.cluster.runtime import MemberSpec
from bcpg_cluster.errors import DataError, EngineError, Interrupted, MemberLostError, TrainingDivergedError


@pytest.fixture
def gang(scripted: Any) -> Gang:
    return Gang("trainer", scripted, lambda group, rank: MemberSpec(f"trainer/{rank}.{group}", dict, {}), 2)


def answer(results: dict[str, Any]) -> Callable[[Any], None]:
    """Settle calls by method: a value, an error, or a function of the call; other calls stay open."""

    def settle(call: Any) -> None:
        if call.method not in results:
            return
        result = results[call.method]
        result = result(call) if callable(result) else result
        if isinstance(result, BaseException):
            call.answer.set_exception(result)
        else:
            call.answer.set_result(result)

    return settle


GOOD = {"rendezvous": ("10.0.0.1", 77), "meet": None, "work": lambda call: call.member}


def test_all_meet_where_rank_0_says(scripted: Any, gang: Gang):
    scripted.on_call = answer(GOOD)
    assert not gang.is_up
    gang.ensure_up()
    assert [(c.member, c.method, c.args) for c in scripted.calls if c.method != "ping"] == [
        ("trainer/0.0", "rendezvous", ()),
        ("trainer/0.0", "meet", ("10.0.0.1", 77)),
        ("trainer/1.0", "meet", ("10.0.0.1", 77)),
    ]
    gang.ensure_up()
    gang.begin_start()
    assert len(scripted.members) == 2  # once
    assert gang.call_all("work") == ["trainer/0.0", "trainer/1.0"]
    assert gang.size == 2


def test_a_call_to_a_group_that_is_not_there(gang: Gang):
    with pytest.raises(MemberLostError, match="trainer is not up"):
        gang.call_all("work")


@pytest.mark.parametrize("error", [EngineError("out of memory"), MemberLostError("gone"), TrainingDivergedError("nan")])
def test_a_rank_that_fails_takes_the_group_with_it(scripted: Any, gang: Gang, error: Exception):
    scripted.on_call = answer({**GOOD, "work": lambda call: error if "/1" in call.member else "fine"})
    gang.ensure_up()
    with pytest.raises(type(error)) as caught:
        gang.call_all("work")
    assert caught.value is error
    assert not gang.is_up
    assert all(member.is_killed for member in scripted.members)


def test_a_remade_group_gets_new_names_and_meets_again(scripted: Any, gang: Gang):
    scripted.on_call = answer(GOOD)
    gang.ensure_up()
    gang.kill()
    gang.ensure_up()
    assert [member.name for member in gang.members] == ["trainer/0.1", "trainer/1.1"]
    assert len(scripted.of("meet")) == 4


def test_a_ranks_own_error_is_told_before_a_lost_peer(scripted: Any, gang: Gang):
    def work(call: Any) -> Exception:
        return MemberLostError("peer closed the connection") if "/0" in call.member else ValueError("the cause")

    scripted.on_call = answer({**GOOD, "work": work})
    gang.ensure_up()
    with pytest.raises(ValueError, match="the cause"):
        gang.call_all("work")


def test_a_silent_rank_is_given_up(scripted: Any, gang: Gang):
    scripted.on_call = answer({**GOOD, "meet": lambda call: None})
    gang.ensure_up()
    with pytest.raises(MemberLostError, match=r"trainer did not answer within 0 s: trainer/0\.0, trainer/1\.0"):
        gang.call_all("silence", timeout_s=0.4)
    assert not gang.is_up


def test_a_rank_that_could_not_be_made_says_so_before_it_is_needed(scripted: Any, gang: Gang):
    error = DataError("this", rule="that", remedy="so")
    gang.begin_start()
    gang.raise_if_failed()  # nothing is known yet
    scripted.of("ping")[0].answer.set_exception(EngineError("no memory"))
    gang.raise_if_failed()  # may be tried again when it is needed
    scripted.of("ping")[1].answer.set_exception(error)
    with pytest.raises(DataError) as caught:
        gang.raise_if_failed()
    assert caught.value is error
    assert not gang.is_up


def test_stopping_in_the_middle_of_a_call(scripted: Any):
    def stop() -> None:
        raise Interrupted("asked")

    gang = Gang("t", scripted, lambda group, rank: MemberSpec(f"t/{rank}", dict, {}), 1, check_stop=stop)
    scripted.on_call = answer(GOOD)
    gang.ensure_up()
    with pytest.raises(Interrupted):
        gang.call_all("silence")
    assert not gang.is_up
    assert scripted.members[0].is_killed


def watched(scripted: Any, clock: Any, size: int, **limits: float) -> Gang:
    watch = ProgressWatch(ProgressLimits(**limits), clock)
    return Gang("trainer", scripted, lambda group, rank: MemberSpec(f"trainer/{rank}", dict, {}), size, watch=watch)


@pytest.mark.parametrize("size", [1, 2])
def test_a_rank_that_gets_nowhere_takes_the_group_with_it(scripted: Any, clock: Any, size: int):
    """Also a group of one. The last rank stopped in the middle; the others answer and wait for it."""
    gang = watched(scripted, clock, size, heartbeat_s=2.0)

    def progress(call: Any) -> RankProgress | None:
        is_stopped = call.member == f"trainer/{size - 1}" and len(scripted.of("progress")) > 2 * size
        return None if is_stopped else RankProgress("micro-batch", "3 of 8", 7, None, "node-a", 42)

    def settle(call: Any) -> None:
        if call.method != "progress" or progress(call) is not None:
            answer({**GOOD, "ping": "ready", "progress": progress})(call)

    scripted.on_call = settle
    gang.ensure_up()

    def second() -> None:
        clock.now += 1.0

    with pytest.raises(
        MemberLostError, match=rf"^trainer/{size - 1} \(node-a, pid 42\) made no progress .* not answered"
    ):
        gang.call_all("silence", meanwhile=second)
    assert not gang.is_up
    assert all(member.is_killed for member in scripted.members)


@pytest.mark.parametrize("stuck_in", ["rendezvous", "meet"])
def test_a_rank_that_was_stopped_before_the_group_met(scripted: Any, clock: Any, stuck_in: str):
    """It was ready long ago, so it does not have the time of a start."""

    def check_stop() -> None:
        clock.now += 1.0

    watch = ProgressWatch(ProgressLimits(heartbeat_s=1.5), clock)
    gang = Gang(
        "trainer", scripted, lambda group, rank: MemberSpec(f"trainer/{rank}", dict, {}), 1,
        watch=watch, check_stop=check_stop,
    )  # fmt: skip
    scripted.on_call = answer({name: result for name, result in {**GOOD, "ping": "ready"}.items() if name != stuck_in})
    with pytest.raises(MemberLostError, match=r"^trainer/0 made no progress for 2 s, and has not answered for 2 s"):
        gang.ensure_up()
    assert not gang.is_up


def test_a_rank_that_still_starts_is_not_asked(scripted: Any, clock: Any):
    gang = watched(scripted, clock, 1, heartbeat_s=1.5)
    scripted.on_call = answer({"rendezvous": ("10.0.0.1", 77)})
    gang.begin_start()
    gang._start_timeout_s = 2.0
    with pytest.raises(MemberLostError, match="did not answer within 2 s: trainer/0"):
        gang.ensure_up()
    assert scripted.of("progress") == []


def test_a_rank_that_shows_no_progress_is_shown_as_stalled(scripted: Any, clock: Any):
    """Between two calls, too: a stopped process is seen before it is needed."""
    gang = watched(scripted, clock, 2, heartbeat_s=60.0)
    scripted.on_call = answer({**GOOD, "ping": "ready"})
    gang.begin_start()
    assert gang.status() == [("trainer/0", "ready"), ("trainer/1", "ready")]
    gang.ensure_up()
    for _ in range(12):
        gang.status()
        clock.now += 1.0
        (asked,) = [call for call in scripted.of("progress") if call.member == "trainer/0" and not call.answer.done()]
        asked.answer.set_result(RankProgress("", "", 0, None, "node-a", 1))
    assert gang.status() == [("trainer/0", "ready"), ("trainer/1", "stalled")]
    assert gang.is_up
