"""Looks after a running run's pools, about once a second: resizes those that resize themselves by their queue, does what a
person asked for, takes in members that came up or went while no stage polls their pool, and tells the observer of all of it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass

from bcpg_cluster.cluster.gang import Gang
from bcpg_cluster.cluster.pool import Pool
from bcpg_cluster.cluster.scaling import ScalingRule, Wishes, decide, first_wish
from bcpg_cluster.cluster.state import MemberState, PoolState
from bcpg_cluster.errors import EngineError, UnreachableError, UserError
from bcpg_cluster.watch.control import Answer, Control, ScaleRequest, check_sizes, refusal
from bcpg_cluster.watch.observer import Noted, Observer, PoolsSeen


@dataclass(frozen=True, slots=True)
class PoolBounds:
    """See ``config.pools.PoolConfig``.

    Attributes:
        needs: the resources of one member.
        target_queue_per_actor: ``None`` for a pool that does not resize itself.
    """

    low: int
    high: int
    needs: Mapping[str, float]
    target_queue_per_actor: float | None = None
    scale_down_after_s: float = 300.0


class Scaler:
    """See the module's docstring. :meth:`tend` is called in every turn of the loops in which the run waits.

    Args:
        control: where people's requests come from.
        served_version: the policy version that the rollout members serve.
    """

    def __init__(
        self,
        pools: Mapping[str, Pool],
        gang: Gang,
        bounds: Mapping[str, PoolBounds],
        *,
        observer: Observer,
        control: Control,
        served_version: Callable[[], int],
        clock: Callable[[], float] = time.monotonic,
        every_s: float = 1.0,
    ) -> None:
        self._pools, self._gang, self._bounds = pools, gang, bounds
        self._observer, self._control, self._served_version = observer, control, served_version
        self._clock, self._every_s = clock, every_s
        self._next = clock()
        self._rules: dict[str, ScalingRule] = {}
        self._wishes: dict[str, Wishes] = {}
        self._pinned: set[str] = set()
        self._waiting: dict[str, int] = {}  # members that a person was told wait for a node
        for name, pool in pools.items():
            bound = bounds[name]
            if bound.target_queue_per_actor is not None:
                self._rules[name] = ScalingRule(
                    bound.low, bound.high, bound.target_queue_per_actor, bound.scale_down_after_s
                )
                self._wishes[name] = first_wish(pool.size, clock())
        with suppress(OSError, UnreachableError):
            control.clear()

    def tend(self) -> None:
        """Do what is due; returns at once when nothing is.

        Raises:
            UserError: a member that was starting found bad input.
        """
        now = self._clock()
        if now < self._next:
            return
        self._next = now + self._every_s
        for pool in self._pools.values():
            with suppress(EngineError):  # the pool raises it again when it is next polled for work
                pool.settle()
        with suppress(OSError, UnreachableError):  # no reason to end a run: whoever asked is told that no answer came
            for request in self._control.take():
                self._control.answer(self._obey(request))
        for name, rule in self._rules.items():
            if name not in self._pinned:
                self._follow(name, rule, now)
        states = self.states()
        self._tell_who_waits(states)
        self._observer.hear(PoolsSeen(states))

    def states(self) -> list[PoolState]:
        """All pools, the trainer group last."""
        states = [self._state(name, pool) for name, pool in self._pools.items()]
        if "trainer" in self._bounds:
            states.append(self._gang_state(self._bounds["trainer"]))
        return states

    def _follow(self, name: str, rule: ScalingRule, now: float) -> None:
        pool = self._pools[name]
        pieces = pool.num_queued + pool.num_leased
        size, self._wishes[name] = decide(rule, self._wishes[name], pieces, now)
        if size != pool.size:
            self._resize(name, size, f"{pieces} pieces of work for {rule.target_queue_per_actor:g} a member")

    def _obey(self, request: ScaleRequest) -> Answer:
        """All of a request, or nothing."""
        try:
            check_sizes(request.sizes, self.states())
        except UserError as error:
            return refusal(request, error)
        changes = {}
        for name, size in request.sizes.items():
            before = self._pools[name].size
            if size is None:
                self._pinned.discard(name)
                self._wishes[name] = first_wish(before, self._clock())
                self._follow(name, self._rules[name], self._clock())
            else:
                self._pinned.add(name)
                self._resize(name, size, f"asked for by {request.by}")
            changes[name] = before, self._pools[name].size
        return Answer(request.id, changes)

    def _resize(self, name: str, size: int, why: str) -> None:
        before = self._pools[name].size
        self._pools[name].resize(size)
        self._observer.hear(Noted(f"{name}: {before} -> {size} members ({why})"))

    def _tell_who_waits(self, states: list[PoolState]) -> None:
        for state in states:
            waiting = state.count("placing")
            if waiting != self._waiting.get(state.name, 0):
                needs = ", ".join(f"{resource}: {amount:g}" for resource, amount in state.needs.items())
                text = (
                    f"{state.name}: {waiting} of {state.size} members wait for a node with {{{needs}}}"
                    if waiting
                    else f"{state.name}: no member waits for a node any more"
                )
                self._observer.hear(Noted(text))
                self._waiting[state.name] = waiting

    def _sized_by(self, name: str) -> str:
        return "person" if name in self._pinned else "queue" if name in self._rules else "config"

    def _state(self, name: str, pool: Pool) -> PoolState:
        bounds = self._bounds[name]
        members = pool.status(self._served_version() if name == "rollout" else None)
        busy_s, ready_s = pool.times()
        return PoolState(
            name=name,
            size=pool.size,
            low=bounds.low,
            high=bounds.high,
            sized_by=self._sized_by(name),
            num_queued=pool.num_queued,
            num_leased=pool.num_leased,
            busy_s=busy_s,
            ready_s=ready_s,
            members=tuple(members),
            needs=bounds.needs,
            target_queue_per_actor=bounds.target_queue_per_actor,
        )

    def _gang_state(self, bounds: PoolBounds) -> PoolState:
        size = self._gang.size
        members = tuple(MemberState(name, state, 0, 0.0) for name, state in self._gang.status())
        return PoolState("trainer", size, size, size, "config", 0, 0, 0.0, 0.0, members, bounds.needs)
