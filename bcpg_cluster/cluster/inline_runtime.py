"""Members as threads of this process: for unit tests and for runs on fakes. No Ray."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from bcpg_cluster.cluster.runtime import MemberSpec
from bcpg_cluster.errors import MemberLostError
from bcpg_cluster.store.mark import RunMark


class InlineMember:
    """A hosted object with its own work and control threads. ``env`` and resources are not applied: one process."""

    def __init__(self, spec: MemberSpec) -> None:
        self.name = spec.name
        self._work = ThreadPoolExecutor(spec.work_threads, thread_name_prefix=spec.name)
        self._control = ThreadPoolExecutor(2, thread_name_prefix=f"{spec.name}-control")
        self._pending: set[Future[Any]] = set()
        self._guard = threading.Lock()
        self._dead = False
        self._hosted = self._work.submit(spec.factory, **spec.arguments)

    def call(self, method: str, /, *args: Any, control: bool = False, label: str = "") -> Future[Any]:
        """See :class:`bcpg_cluster.cluster.runtime.Member`."""
        answer: Future[Any] = Future()
        with self._guard:
            if self._dead:
                answer.set_exception(MemberLostError(f"{self.name} was stopped"))
                return answer
            self._pending.add(answer)
            (self._control if control else self._work).submit(self._run, answer, method, args)
        return answer

    def _run(self, answer: Future[Any], method: str, args: tuple[Any, ...]) -> None:
        settle: Callable[[], None]
        try:
            result = getattr(self._hosted.result(), method)(*args)
        except BaseException as error:
            failure = error
            settle = lambda: answer.set_exception(failure)  # noqa: E731
        else:
            settle = lambda: answer.set_result(result)  # noqa: E731
        with self._guard:
            if answer in self._pending:  # a killed member's late answer changes nothing
                self._pending.discard(answer)
                settle()

    def kill(self) -> None:
        """See :class:`bcpg_cluster.cluster.runtime.Member`. The thread itself cannot be stopped: it is a late worker."""
        with self._guard:
            self._dead = True
            pending, self._pending = self._pending, set()
        for answer in pending:
            answer.set_exception(MemberLostError(f"{self.name} was stopped"))
        self._work.shutdown(wait=False, cancel_futures=True)
        self._control.shutdown(wait=False, cancel_futures=True)

    def free(self) -> None:
        """Close what is hosted, as the end of a process would."""
        if self._hosted.done() and not self._hosted.cancelled() and self._hosted.exception() is None:
            close = getattr(self._hosted.result(), "close", None)
            if close is not None:
                close()


class InlineRuntime:
    """Starts members in this process."""

    def __init__(self) -> None:
        self._members: list[InlineMember] = []

    def start(self, spec: MemberSpec) -> InlineMember:
        """See :class:`bcpg_cluster.cluster.runtime.Runtime`."""
        member = InlineMember(spec)
        self._members.append(member)
        return member

    def members_must_see(self, mark: RunMark) -> None:
        """Nothing to look for: members are threads of this process."""

    def shutdown(self) -> None:
        """Stop all members, those that were killed before included, and free what they host."""
        for member in self._members:
            member.kill()
        for member in self._members:
            member.free()
