"""What a run tells the outside while it goes on. The coordinator speaks; displays, loggers and trackers listen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from bcpg_cluster.cluster.state import PoolState
from bcpg_cluster.records import Receipt


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
        """An optimiser step is done: the fields of ``stages.train.protocol.StepReport``. Each step of a round once, in order."""
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
