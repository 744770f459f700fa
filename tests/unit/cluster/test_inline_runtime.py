"""cluster/inline_runtime.py: members as threads."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest

from bcpg_cluster.cluster.inline_runtime import InlineRuntime
from bcpg_cluster.cluster.runtime import MemberSpec
from bcpg_cluster.errors import DataError, EngineError, MemberLostError


class Hosted:
    def __init__(self, start: int = 0) -> None:
        self.value = start
        self.gate = threading.Event()

    def add(self, number: int) -> int:
        self.value += number
        return self.value

    def wait(self) -> str:
        assert self.gate.wait(20)
        return "waited"

    def open(self) -> str:
        self.gate.set()
        return "opened"

    def fail(self) -> None:
        raise DataError("this", rule="that", remedy="so")


def broken() -> Any:
    raise EngineError("cannot start")


@pytest.fixture
def runtime() -> Iterator[InlineRuntime]:
    made = InlineRuntime()
    yield made
    made.shutdown()


def test_calls_reach_the_object_in_order(runtime: InlineRuntime):
    member = runtime.start(MemberSpec("a/0", Hosted, {"start": 10}))
    assert [member.call("add", n).result(10) for n in (1, 2)] == [11, 13]
    futures = [member.call("add", 1) for _ in range(20)]
    assert [future.result(10) for future in futures] == list(range(14, 34))  # one work thread: no race, in order


def test_control_calls_are_answered_while_work_is_under_way(runtime: InlineRuntime):
    member = runtime.start(MemberSpec("a/0", Hosted, {}))
    work = member.call("wait")
    queued = member.call("add", 5)
    assert member.call("add", 1, control=True).result(10) == 1
    assert not work.done()
    assert not queued.done()
    assert member.call("open", control=True).result(10) == "opened"
    assert (work.result(10), queued.result(10)) == ("waited", 6)


def test_work_threads(runtime: InlineRuntime):
    member = runtime.start(MemberSpec("a/0", Hosted, {}, work_threads=2))
    work = member.call("wait")
    assert member.call("open").result(10) == "opened"
    assert work.result(10) == "waited"


def test_errors_keep_their_type(runtime: InlineRuntime):
    member = runtime.start(MemberSpec("a/0", Hosted, {}))
    with pytest.raises(DataError) as caught:
        member.call("fail").result(10)
    assert caught.value.remedy == "so"
    with pytest.raises(AttributeError):
        member.call("no_such_method").result(10)
    assert member.call("add", 1).result(10) == 1


def test_a_factory_that_fails_fails_every_call(runtime: InlineRuntime):
    member = runtime.start(MemberSpec("a/0", broken, {}))
    for _ in range(2):
        with pytest.raises(EngineError, match="cannot start"):
            member.call("ping", control=True).result(10)


def test_a_killed_member_is_lost_and_its_late_answer_changes_nothing(runtime: InlineRuntime):
    hosted = Hosted()
    member = runtime.start(MemberSpec("a/0", lambda: hosted, {}))
    work = member.call("wait")
    member.call("add", 0, control=True).result(10)
    member.kill()
    member.kill()
    with pytest.raises(MemberLostError, match="a/0 was stopped"):
        work.result(10)
    with pytest.raises(MemberLostError):
        member.call("add", 1).result(10)
    hosted.gate.set()  # the thread wakes up late and finishes
    with pytest.raises(MemberLostError):
        work.result(0)


def test_shutdown_loses_everybody(runtime: InlineRuntime):
    members = [runtime.start(MemberSpec(f"a/{n}", Hosted, {})) for n in range(2)]
    runtime.shutdown()
    for member in members:
        with pytest.raises(MemberLostError):
            member.call("add", 1).result(10)
