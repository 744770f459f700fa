"""cluster/liveness/rank_watch.py: who is stuck, by a clock that the test drives."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bcpg_cluster.cluster.liveness.deadline import allowed_s
from bcpg_cluster.cluster.liveness.rank_progress import RankProgress
from bcpg_cluster.cluster.liveness.rank_watch import ProgressLimits, ProgressWatch
from bcpg_cluster.cluster.runtime import MemberSpec

LIMITS = ProgressLimits(ceiling_s=1800.0, heartbeat_s=60.0)


@pytest.mark.parametrize(
    ("longest_s", "deadline_s"), [(None, 1800.0), (0.5, 60.0), (6.0, 60.0), (6.1, 61.0), (30.0, 300.0), (200.0, 1800.0)]
)
def test_the_deadline_of_a_piece(longest_s: float | None, deadline_s: float):
    assert allowed_s(longest_s, LIMITS.ceiling_s) == pytest.approx(deadline_s)


@given(longest_s=st.none() | st.floats(0, 1e6), ceiling_s=st.floats(0.1, 1e5))
def test_no_deadline_is_above_the_ceiling(longest_s: float | None, ceiling_s: float):
    assert 0 < allowed_s(longest_s, ceiling_s) <= ceiling_s


class Group:
    """Ranks that are asked every second, and answer what the test says; ``None`` leaves a question open."""

    def __init__(self, scripted: Any, clock: Any, size: int = 2, limits: ProgressLimits = LIMITS) -> None:
        self.says: list[RankProgress | None] = [None] * size
        self.clock, self.scripted = clock, scripted
        self.watch = ProgressWatch(limits, clock)
        self.members = [scripted.start(MemberSpec(f"trainer/{rank}", dict, {})) for rank in range(size)]
        self.watch.begin(self.members)

    def look(self, seconds: float = 0.0) -> str | None:
        """Look every second; the first words about a rank that is stuck."""
        for _ in range(round(seconds) or 1):
            if stuck := self.watch.look(self.members):
                return stuck
            for call in self.scripted.of("progress"):
                said = self.says[int(call.member[-1])]
                if said is not None and not call.answer.done():
                    call.answer.set_result(said)
            self.clock.now += 1.0
        return None


@pytest.fixture
def make_group(scripted: Any, clock: Any) -> Callable[..., Group]:
    return lambda *args: Group(scripted, clock, *args)


def at(moves: int, longest_s: float | None = None, doing: str = "micro-batch") -> RankProgress:
    return RankProgress(doing, f"{moves} of 99", moves, longest_s, "node-a", 70 + moves)


def test_a_rank_that_does_not_answer_is_stuck_after_the_heartbeat(make_group: Callable[..., Group]):
    group = make_group()
    group.says = [at(4), at(3)]
    assert group.look(20) is None
    group.says = [at(5), None]  # the other one waits for it in a collective, and answers
    assert group.look(55) is None
    stuck = group.look(10)
    assert stuck is not None
    assert stuck.startswith("trainer/1 (node-a, pid 73) made no progress for ")
    assert (
        "s, last heard at micro-batch 3 of 99, and has not answered for 61 s; trainer/0 (node-a, pid 75) made no"
        in stuck
    )
    assert stuck.count("has not answered") == 1


def test_one_that_is_continued_in_time_is_not_stuck(make_group: Callable[..., Group]):
    group = make_group()
    for moves in range(4):
        group.says = [at(moves), at(moves)]
        assert group.look(3) is None
        group.says = [at(moves), None]
        assert group.look(55) is None


def test_a_rank_that_answers_but_gets_nowhere_is_stuck_at_the_deadline_of_its_piece(make_group: Callable[..., Group]):
    group = make_group(1)
    group.says = [at(1)]
    assert group.look(1795) is None  # nothing to compare with: the ceiling
    group.says = [at(2, longest_s=8.0)]
    assert group.look(75) is None
    stuck = group.look(10)
    assert stuck is not None
    assert stuck.startswith("trainer/0 (node-a, pid 72) made no progress for 81 s, at micro-batch 2 of 99")
    assert "answered" not in stuck


def test_the_longest_piece_of_any_rank_of_any_group_counts(make_group: Callable[..., Group]):
    group = make_group()
    group.says = [at(1, longest_s=40.0), at(1, longest_s=1.0)]
    assert group.look(100) is None
    group.watch.begin(group.members[1:])  # the next call, or the next group
    group.members = group.members[1:]
    group.says[1] = at(2)
    assert group.look(350) is None
    group.says[1] = at(3, doing="optimiser step")  # a kind not done before
    assert group.look(1000) is None


def test_the_cause_is_the_one_that_stopped_first(make_group: Callable[..., Group]):
    group = make_group()
    group.says = [at(1, 1.0), at(1, 1.0)]
    assert group.look(30) is None
    group.says = [at(2, 1.0), at(1, 1.0)]
    stuck = group.look(90)
    assert stuck is not None
    assert stuck.startswith("trainer/1 ")


def test_a_pause_of_the_driver_itself_does_not_count(make_group: Callable[..., Group]):
    group = make_group()
    group.says = [at(1), at(1)]
    assert group.look(3) is None
    group.says = [None, None]
    for _ in range(3):
        group.clock.now += 4000.0
        assert group.look() is None
    assert group.look(49) is None  # each gap counts as 5 s, and the first brought an answer
    assert group.look(5) is not None


def test_a_new_call_begins_afresh(make_group: Callable[..., Group]):
    group = make_group()
    group.says = [at(1), at(1)]
    group.look(3)
    group.says = [at(1), None]
    assert group.look(50) is None
    group.watch.begin(group.members)
    assert group.look(50) is None
    assert group.look(15) is not None


def test_what_displays_show(make_group: Callable[..., Group]):
    group = make_group()
    names = [member.name for member in group.members]

    def stalled() -> list[bool]:
        return [group.watch.is_stalled(name) for name in names]

    assert stalled() == [False, False]
    group.says = [at(1, 1.0), at(1, 1.0)]
    group.look(20)
    assert stalled() == [False, False]
    group.says = [at(1, 1.0), None]
    group.look(15)
    assert stalled() == [True, True]  # no move for half its minute; no answer for ten seconds
    group.says = [at(2, 1.0), at(2, 1.0)]
    group.look(3)
    assert stalled() == [False, False]
    assert not group.watch.is_stalled("trainer/9")


def test_a_question_that_failed_is_no_answer(make_group: Callable[..., Group]):
    group = make_group(1)
    group.says = [at(1)]
    group.look(2)
    group.says = [None]
    for _ in range(70):
        for call in group.scripted.of("progress"):
            if not call.answer.done():
                call.answer.set_exception(RuntimeError("no"))
        if stuck := group.look():
            break
    assert stuck
