"""A group of members that only work together: the trainer's ranks. It is whole or it is gone."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import FIRST_EXCEPTION, Future, wait
from typing import Any

from bcpg_cluster.cluster.lifecycle import meet, ping, rendezvous
from bcpg_cluster.cluster.liveness.rank_watch import ProgressWatch
from bcpg_cluster.cluster.runtime import Member, MemberSpec, Placed, Runtime
from bcpg_cluster.errors import EngineError, MemberLostError, UserError

_QUICK_S = 5.0  # a placement that takes no longer is not news


class Gang:
    """``size`` members that get every call together. A rank that dies, is late or gets nowhere takes the group with it.

    Args:
        spec: gives the spec of (group number, rank); a re-made group gets new names.
        start_timeout_s: from when all ranks have a node; ``placement_timeout_s``: until then.
        on_wait: told once when the group has to wait for nodes.
        watch: tells during a call which rank is stuck.
    """

    def __init__(
        self,
        name: str,
        runtime: Runtime,
        spec: Callable[[int, int], MemberSpec],
        size: int,
        *,
        start_timeout_s: float = 600.0,
        placement_timeout_s: float = 1800.0,
        on_wait: Callable[[str], None] = lambda what: None,
        check_stop: Callable[[], None] = lambda: None,
        watch: ProgressWatch | None = None,
    ) -> None:
        self.name, self.size = name, size
        self._watch = watch or ProgressWatch()
        self._runtime, self._spec = runtime, spec
        self._start_timeout_s, self._placement_timeout_s = start_timeout_s, placement_timeout_s
        self._on_wait = on_wait
        self._check_stop = check_stop
        self._members: list[Member] = []
        self._starts: list[Future[Any]] = []
        self._generation = 0
        self._starting = threading.Lock()  # a run may ask for the members while another trains with them
        self._has_met = False
        self._is_calling = False

    @property
    def is_up(self) -> bool:
        """Whether the group is there."""
        return bool(self._members)

    @property
    def members(self) -> list[Member]:
        """The ranks, in order."""
        return list(self._members)

    def status(self) -> list[tuple[str, str]]:
        """Each rank's name and state (``starting``, ``ready``, ``stalled``), for displays."""
        members, starts = self.members, list(self._starts)  # another thread may be changing them
        if self._has_met and not self._is_calling:
            self._watch.look(members)
        return [
            (member.name, self._state(member) if start.done() else "starting")
            for member, start in zip(members, starts, strict=False)
        ]

    def _state(self, member: Member) -> str:
        return "stalled" if self._watch.is_stalled(member.name) else "ready"

    def begin_start(self) -> None:
        """Ask for the members without waiting for them."""
        with self._starting:
            if self._members:
                return
            self._members = [self._runtime.start(self._spec(self._generation, rank)) for rank in range(self.size)]
            self._starts = [ping(member) for member in self._members]
            self._generation += 1
            self._has_met = False

    def raise_if_failed(self) -> None:
        """Raise the error of a rank that could not be made, as soon as it is known (e.g. bad vendor options)."""
        for start in self._starts:
            if start.done() and (error := start.exception()) is not None and not isinstance(error, EngineError):
                self._fail(error)

    def try_start(self) -> None:
        """Start the members and end them again, so that options they cannot be made from fail before anything depends on them."""
        self.begin_start()
        self._await_nodes()
        self._collect(self._starts, self._start_timeout_s)
        self.kill()

    def ensure_up(self) -> None:
        """Have the group ready: started, and met at a rendezvous that rank 0 opens on its own machine.

        Raises:
            EngineError: it did not come up; it is gone and may be started again.
        """
        self.begin_start()
        if self._has_met:
            return
        self._await_nodes()
        host, port = self._watched([rendezvous(self._members[0])], self._start_timeout_s)[0]
        self._watched([meet(member, host, port) for member in self._members], self._start_timeout_s)
        self._has_met = True

    def _await_nodes(self) -> None:
        started, told = time.monotonic(), False
        while True:
            wait(self._starts, timeout=0.5 if told else _QUICK_S)
            waiting = [
                member.name
                for member, start in zip(self._members, self._starts, strict=True)
                if not start.done() and isinstance(member, Placed) and not member.is_placed()
            ]
            if not waiting:
                return
            if not told:
                self._on_wait(f"{self.name} waits for nodes with room for {', '.join(waiting)}")
                told = True
            if time.monotonic() - started > self._placement_timeout_s:
                self.kill()
                raise UserError(
                    f"no nodes with room for {', '.join(waiting)} of {self.name} came up within {self._placement_timeout_s:.0f} s",
                    rule="all ranks of a group need their resources at the same time",
                    remedy=f"see `ray status`; add nodes, or raise pools.{self.name}.placement_timeout_s",
                )
            self._raise_if_stopped()

    def _raise_if_stopped(self) -> None:
        try:
            self._check_stop()
        except BaseException:
            self.kill()
            raise

    def submit_all(self, method: str, *args: Any, label: str = "") -> list[Future[Any]]:
        """Call a method on every rank at once; the caller waits (see :meth:`collect`)."""
        if not self._members:
            raise MemberLostError(f"{self.name} is not up")
        return [member.call(method, *args, label=label or method) for member in self._members]

    def call_all(
        self,
        method: str,
        *args: Any,
        timeout_s: float | None = None,
        label: str = "",
        meanwhile: Callable[[], None] = lambda: None,
    ) -> list[Any]:
        """Call a method on every rank and wait for all; results in rank order. ``meanwhile`` is called every second.

        Raises:
            MemberLostError: a rank was lost, got nowhere, or did not answer within ``timeout_s``; the group is gone.
        """
        return self._watched(self.submit_all(method, *args, label=label), timeout_s, meanwhile)

    def _watched(
        self, futures: list[Future[Any]], timeout_s: float | None, meanwhile: Callable[[], None] = lambda: None
    ) -> list[Any]:
        """Wait for the answers of the first ranks, or of all; one that is stuck takes the group with it."""

        def look() -> None:
            if (stuck := self._watch.look(self._started(self._busy(futures)))) is not None:
                raise MemberLostError(stuck)
            meanwhile()

        self._is_calling = True
        try:
            self._watch.begin(self._started(self._members))
            return self._collect(futures, timeout_s, look)
        finally:
            self._is_calling = False

    def _started(self, members: list[Member]) -> list[Member]:
        """Those that are ready: one that still starts cannot say where it is, and has a time of its own for that."""
        ready = {m.name for m, start in zip(self._members, self._starts, strict=True) if start.done()}
        return [member for member in members if member.name in ready]

    def _busy(self, futures: list[Future[Any]]) -> list[Member]:
        """The ranks that have not answered yet."""
        return [member for member, future in zip(self._members, futures, strict=False) if not future.done()]

    def _collect(
        self, futures: list[Future[Any]], timeout_s: float | None, meanwhile: Callable[[], None] = lambda: None
    ) -> list[Any]:
        waited = 0.0
        while True:
            finished, pending = wait(futures, timeout=1.0, return_when=FIRST_EXCEPTION)
            failed = [future for future in finished if future.exception() is not None]
            if failed:
                self._fail(self._first_cause(futures))
            if not pending:
                return [future.result() for future in futures]
            waited += 1.0
            if timeout_s is not None and waited > timeout_s:
                who = ", ".join(member.name for member in self._busy(futures))
                self._fail(MemberLostError(f"{self.name} did not answer within {timeout_s:.0f} s: {who}"))
            try:
                self._check_stop()
                meanwhile()
            except BaseException:
                self.kill()
                raise

    def _first_cause(self, futures: list[Future[Any]]) -> BaseException:
        """The most telling error: a rank's own error before "a peer was lost"."""
        wait(futures, timeout=5.0)  # the other ranks usually fail right after
        errors = [future.exception() for future in futures if future.done() and future.exception() is not None]
        own = [error for error in errors if not isinstance(error, EngineError)]
        return (own or errors)[0]  # type: ignore[return-value]

    def _fail(self, error: BaseException) -> None:
        self.kill()
        raise error

    def kill(self) -> None:
        """End all ranks."""
        for member in self._members:
            member.kill()
        self._members, self._starts = [], []
        self._has_met = False
