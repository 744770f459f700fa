"""Pools that share a machine take turns on it: one has its engines there, the others have closed theirs or let them sleep."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from concurrent.futures import Future, wait
from typing import Any

from bcpg_cluster.cluster.gang import Gang
from bcpg_cluster.cluster.lifecycle import sleep, wake_up
from bcpg_cluster.cluster.pool import Pool
from bcpg_cluster.cluster.runtime import Member
from bcpg_cluster.errors import EngineError

TRAINER = "trainer"


class Turns:
    """Gives the machine to one pool after the other. Where pools run separately, each starts when it is first needed, and stays.

    Args:
        is_colocated: whether pools take turns.
        sleepers: pools whose engines free what they hold and stay, where they can (``sleep`` and ``wake_up`` of what they
            host). Members that cannot sleep are closed, as those of all other pools are.
        always: pools that start at once and never leave, where the others take turns.
        patience_s: for falling asleep and waking up; past it a member is closed.
    """

    def __init__(
        self,
        pools: Mapping[str, Pool],
        gang: Gang,
        *,
        is_colocated: bool,
        sleepers: Collection[str] = (),
        always: Collection[str] = ("cpu",),
        patience_s: float = 300.0,
    ) -> None:
        self.is_colocated = is_colocated
        self._pools, self._gang = pools, gang
        self._sleepers, self._always, self._patience_s = frozenset(sleepers), frozenset(always), patience_s
        self._asleep: set[str] = set()
        self._holder: str | None = None
        self._unopened = {name for name in pools if not (is_colocated and name in self._always)}
        for name in self._unopened:
            pools[name].park()

    def is_closed(self, name: str) -> bool:
        """Whether a pool has no engines now: those it starts next are new."""
        if not self.is_colocated:
            return name in self._unopened
        return name != self._holder and name not in self._asleep

    def need(self, names: Iterable[str]) -> None:
        """Have pools start that are needed now or soon, where they run separately; elsewhere a pool starts at its turn."""
        if self.is_colocated:
            return
        for name in self._unopened.intersection(names):
            self._unopened.discard(name)
            self._pools[name].unpark()

    def take(self, name: str | None) -> None:
        """Have ``name`` alone on the machine; returns before its members are ready.

        ``trainer`` is the group of trainers, which the caller starts; ``None`` needs only those that are always there.
        """
        if not self.is_colocated or name is None or name == self._holder:
            return
        if self._holder == TRAINER:
            self._gang.kill()
        elif self._holder is not None:
            self._rest(self._holder)
        self._holder = name
        if name in self._pools:
            self._wake(name)

    def _rest(self, name: str) -> None:
        pool = self._pools[name]
        members = pool.members()
        can_sleep = name in self._sleepers and len(members) == pool.size  # one that is starting cannot
        pool.park(keep_members=can_sleep)
        if can_sleep and all(self._ask(members, sleep, pool)):
            self._asleep.add(name)
            return
        pool.park()
        pool.poll(assign=False)  # no member has a lease between two turns, so all of them go now

    def _wake(self, name: str) -> None:
        pool = self._pools[name]
        if name in self._asleep:
            self._asleep.discard(name)
            self._ask(pool.members(), wake_up, pool)
        pool.unpark()

    def _ask(self, members: Collection[Member], call: Callable[[Member], Future[Any]], pool: Pool) -> list[bool]:
        """Whether each member did it. One that failed or did not answer is gone afterwards."""
        futures = [call(member) for member in members]
        wait(futures, timeout=self._patience_s)
        answers = []
        for member, future in zip(members, futures, strict=True):
            error = future.exception() if future.done() else EngineError(f"no answer in {self._patience_s:.0f} s")
            if error is not None:
                pool.lose(member, f"{call.__name__}: {error}")
            answers.append(error is None and future.result() is not False)
        return answers
