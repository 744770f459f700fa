"""Looks after a run's pools while it goes on: tells the observer about them, about once a second."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from bcpg_cluster.cluster.gang import Gang
from bcpg_cluster.cluster.pool import Pool
from bcpg_cluster.observer import MemberState, Observer, PoolState


@dataclass(frozen=True, slots=True)
class PoolBounds:
    """See ``config.PoolConfig``; ``needs`` are the resources of one member."""

    low: int
    high: int
    needs: Mapping[str, float]


class Scaler:
    """See the module's docstring. :meth:`tend` is called in every turn of the loops in which the run waits."""

    def __init__(
        self,
        pools: Mapping[str, Pool],
        gang: Gang,
        bounds: Mapping[str, PoolBounds],
        *,
        observer: Observer,
        served_version: Callable[[], int],
        clock: Callable[[], float] = time.monotonic,
        every_s: float = 1.0,
    ) -> None:
        self._pools, self._gang, self._bounds = pools, gang, bounds
        self._observer, self._served_version = observer, served_version
        self._clock, self._every_s = clock, every_s
        self._next = clock()

    def tend(self) -> None:
        """Do what is due; returns at once when nothing is."""
        if self._clock() < self._next:
            return
        self._next = self._clock() + self._every_s
        self._observer.pools(self.states())

    def states(self) -> list[PoolState]:
        """All pools, the trainer group last."""
        states = [self._state(name, pool) for name, pool in self._pools.items()]
        if "trainer" in self._bounds:
            states.append(self._gang_state(self._bounds["trainer"]))
        return states

    def _state(self, name: str, pool: Pool) -> PoolState:
        bounds = self._bounds[name]
        members = pool.status(self._served_version() if name == "rollout" else None)
        busy_s, ready_s = pool.times()
        return PoolState(
            name, pool.size, bounds.low, bounds.high, "config", pool.num_queued, pool.num_leased, busy_s, ready_s,
            tuple(members), bounds.needs,
        )  # fmt: skip

    def _gang_state(self, bounds: PoolBounds) -> PoolState:
        size = self._gang.size
        members = tuple(MemberState(name, state, 0, 0.0) for name, state in self._gang.status())
        return PoolState("trainer", size, size, size, "config", 0, 0, 0.0, 0.0, members, bounds.needs)
