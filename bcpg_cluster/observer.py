"""What a run tells the outside while it goes on. The coordinator speaks; displays, loggers and trackers listen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from bcpg_cluster.records import Receipt


@dataclass(frozen=True, slots=True)
class MemberState:
    """A member as displays show it.

    Attributes:
        state: ``placing`` (no node has room for it yet), ``starting``, ``ready`` or ``draining`` (finishing its last leases).
        num_leases: pieces of work it has now.
        busy_s: seconds in which it had work, since it started.
        policy_version: the weights it serves; ``None`` where it serves none, or is not ready.
    """

    name: str
    state: str
    num_leases: int
    busy_s: float
    policy_version: int | None = None


@dataclass(frozen=True, slots=True)
class PoolState:
    """A pool as displays show it. The trainer group is one too: it cannot be resized, and has no queue.

    Attributes:
        size: members asked for; ``low`` and ``high`` are its bounds.
        sized_by: who decides its size: ``config``, ``queue`` (itself, by its queue) or ``person``.
        num_queued: pieces of work that no member has yet.
        busy_s, ready_s: seconds in which members had work, and were ready, over all members that ever were. Between two looks,
            the change of the one over the change of the other is the busy share.
        needs: the resources of one member, as Ray would be asked for them.
        target_queue_per_actor: what it resizes itself by; ``None`` when it does not.
    """

    name: str
    size: int
    low: int
    high: int
    sized_by: str
    num_queued: int
    num_leased: int
    busy_s: float
    ready_s: float
    members: tuple[MemberState, ...]
    needs: Mapping[str, float]
    target_queue_per_actor: float | None = None

    def count(self, state: str) -> int:
        """How many members are in a state."""
        return sum(member.state == state for member in self.members)


class Observer(Protocol):
    """Listens. Must be quick and must not raise. All calls come from one thread."""

    def stage(self, round_: int, name: str, done: int, total: int) -> None:
        """A stage of a round has ``done`` of ``total`` pieces."""
        ...

    def receipt(self, round_: int, stage: str, receipt: Receipt) -> None:
        """A shard was accepted; also each rank's share of the reference log-probs, as stage ``reference``."""
        ...

    def pools(self, states: Sequence[PoolState]) -> None:
        """All pools, about once a second while the run goes on."""
        ...

    def train_step(self, round_: int, step: Mapping[str, Any]) -> None:
        """An optimiser step is done: the fields of ``engines.protocols.StepReport``. Each step of a round once, in order."""
        ...

    def push(self, version: int, facts: Mapping[str, Any]) -> None:
        """New weights are served and proven: the manifest's facts (``method``, ``seconds``, ``worst_nats``, ...)."""
        ...

    def note(self, text: str) -> None:
        """Something a person watching should read."""
        ...

    def retry(self, what: str, why: str) -> None:
        """A piece of work or a member was lost and is tried again."""
        ...

    def report(self, round_: int, report: dict[str, Any]) -> None:
        """A round is complete."""
        ...


class SilentObserver:
    """Listens to nothing. Observers that care for some of the calls are made from it."""

    def stage(self, round_: int, name: str, done: int, total: int) -> None:
        """Ignored."""

    def receipt(self, round_: int, stage: str, receipt: Receipt) -> None:
        """Ignored."""

    def pools(self, states: Sequence[PoolState]) -> None:
        """Ignored."""

    def train_step(self, round_: int, step: Mapping[str, Any]) -> None:
        """Ignored."""

    def push(self, version: int, facts: Mapping[str, Any]) -> None:
        """Ignored."""

    def note(self, text: str) -> None:
        """Ignored."""

    def retry(self, what: str, why: str) -> None:
        """Ignored."""

    def report(self, round_: int, report: dict[str, Any]) -> None:
        """Ignored."""


class Observers:
    """Several observers as one; each hears everything, in the order given."""

    def __init__(self, observers: Sequence[Observer]) -> None:
        self._observers = tuple(observers)

    def stage(self, round_: int, name: str, done: int, total: int) -> None:
        """Passed on."""
        for observer in self._observers:
            observer.stage(round_, name, done, total)

    def receipt(self, round_: int, stage: str, receipt: Receipt) -> None:
        """Passed on."""
        for observer in self._observers:
            observer.receipt(round_, stage, receipt)

    def pools(self, states: Sequence[PoolState]) -> None:
        """Passed on."""
        for observer in self._observers:
            observer.pools(states)

    def train_step(self, round_: int, step: Mapping[str, Any]) -> None:
        """Passed on."""
        for observer in self._observers:
            observer.train_step(round_, step)

    def push(self, version: int, facts: Mapping[str, Any]) -> None:
        """Passed on."""
        for observer in self._observers:
            observer.push(version, facts)

    def note(self, text: str) -> None:
        """Passed on."""
        for observer in self._observers:
            observer.note(text)

    def retry(self, what: str, why: str) -> None:
        """Passed on."""
        for observer in self._observers:
            observer.retry(what, why)

    def report(self, round_: int, report: dict[str, Any]) -> None:
        """Passed on."""
        for observer in self._observers:
            observer.report(round_, report)
