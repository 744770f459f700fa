"""A runtime that does what the test says, and a clock that moves when the test says."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

import pytest

from bcpg_cluster.cluster.runtime import MemberSpec
from bcpg_cluster.errors import MemberLostError


@dataclass
class Call:
    """A call a member got; the test settles ``answer``."""

    member: str
    method: str
    args: tuple[Any, ...]
    answer: Future[Any]


class ScriptedMember:
    """Notes its calls. ``kill`` fails what is under way, as a real member does."""

    def __init__(self, runtime: ScriptedRuntime, spec: MemberSpec) -> None:
        self.name, self.spec = spec.name, spec
        self.is_killed = False
        self._runtime = runtime
        self.calls: list[Call] = []

    def call(self, method: str, /, *args: Any, control: bool = False, label: str = "") -> Future[Any]:
        answer: Future[Any] = Future()
        if self.is_killed:
            answer.set_exception(MemberLostError(f"{self.name} was stopped"))
            return answer
        call = Call(self.name, method, args, answer)
        self.calls.append(call)
        self._runtime.calls.append(call)
        if self._runtime.on_call is not None:
            self._runtime.on_call(call)
        return answer

    def kill(self) -> None:
        self.is_killed = True
        for call in self.calls:
            if not call.answer.done():
                call.answer.set_exception(MemberLostError(f"{self.name} was stopped"))

    def die(self) -> None:
        """The process is gone, without anybody having asked for it."""
        self.kill()


@dataclass
class ScriptedRuntime:
    """See the module's docstring. ``on_call`` may settle an answer at once."""

    on_call: Callable[[Call], None] | None = None
    members: list[ScriptedMember] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)

    def start(self, spec: MemberSpec) -> ScriptedMember:
        member = ScriptedMember(self, spec)
        self.members.append(member)
        return member

    def shutdown(self) -> None:
        for member in self.members:
            member.kill()

    def of(self, method: str) -> list[Call]:
        return [call for call in self.calls if call.method == method]


class Clock:
    """Seconds that pass when the test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def scripted() -> ScriptedRuntime:
    return ScriptedRuntime()


@pytest.fixture
def clock() -> Clock:
    return Clock()
