"""What a run tells the outside: a small family of events. The coordinator speaks; displays, loggers and trackers listen."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from bcpg_cluster.cluster.state import PoolState
from bcpg_cluster.records import Receipt
from bcpg_cluster.stages.train.protocol import StepReport
from bcpg_cluster.store.faults import FaultEvent
from bcpg_cluster.store.reports import PushFacts, RoundReport


@dataclass(frozen=True, slots=True)
class StageProgress:
    """A stage of a round has ``done`` of ``total`` pieces."""

    round: int
    stage: str
    done: int
    total: int


@dataclass(frozen=True, slots=True)
class ShardAccepted:
    """A shard was accepted; also each rank's share of the reference log-probs, as stage ``reference``."""

    round: int
    stage: str
    receipt: Receipt


@dataclass(frozen=True, slots=True)
class PoolsSeen:
    """All pools as they are, about once a second."""

    states: Sequence[PoolState]


@dataclass(frozen=True, slots=True)
class StepTrained:
    """An optimiser step is done. Each step of a round comes once, in order."""

    round: int
    step: StepReport


@dataclass(frozen=True, slots=True)
class WeightsPushed:
    """The rollout engines serve ``version``, proven."""

    version: int
    facts: PushFacts


@dataclass(frozen=True, slots=True)
class Noted:
    """Something a person watching should read."""

    text: str


@dataclass(frozen=True, slots=True)
class Faulted:
    """Something went wrong and was dealt with. A run's own observer writes it into the manifest (``watch.fault_recorder``)."""

    fault: FaultEvent


@dataclass(frozen=True, slots=True)
class RoundFinished:
    """A round is complete."""

    report: RoundReport


Event = StageProgress | ShardAccepted | PoolsSeen | StepTrained | WeightsPushed | Noted | Faulted | RoundFinished


class Observer(Protocol):
    """Hears of a run. Must be quick, must not raise, and ignores events it does not know. All calls come from one thread."""

    def hear(self, event: Event) -> None:
        """Take one event in."""
        ...


class SilentObserver:
    """Ignores everything."""

    def hear(self, event: Event) -> None:
        """Ignored."""


class Observers:
    """Several observers as one; each hears everything, in the order given."""

    def __init__(self, observers: Sequence[Observer]) -> None:
        self._observers = tuple(observers)

    def hear(self, event: Event) -> None:
        """Pass the event on."""
        for observer in self._observers:
            observer.hear(event)


class OneAtATime:
    """Passes on what several threads say, one event after the other."""

    def __init__(self, observer: Observer) -> None:
        self._observer = observer
        self._speaking = threading.Lock()

    def hear(self, event: Event) -> None:
        """Pass the event on."""
        with self._speaking:
            self._observer.hear(event)
