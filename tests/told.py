"""What a run tells, for tests: an observer that keeps every event, and events' contents with sensible values."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from bcpg_cluster.stages.train.protocol import StepReport
from bcpg_cluster.store.reports import PushFacts
from bcpg_cluster.watch.observer import Event

Kind = TypeVar("Kind")


class Heard:
    """Keeps every event it hears, and calls ``then`` with it."""

    def __init__(self, then: Callable[[Event], object] = lambda event: None) -> None:
        self.events: list[Event] = []
        self._then = then

    def hear(self, event: Event) -> None:
        self.events.append(event)
        self._then(event)

    def of(self, kind: type[Kind]) -> list[Kind]:
        """Those of one kind, in order."""
        return [event for event in self.events if isinstance(event, kind)]


def step_report(**changes: Any) -> StepReport:
    usual = {
        "step": 0, "num_steps": 4, "loss": 0.5, "loss_parts": {}, "grad_norm": 1.0, "learning_rate": 1e-4, "entropy": 0.2,
        "positive_mass": None, "delta_per_token_right": 0.1, "delta_per_token_wrong": None, "delta_per_token_mined": None,
        "delta_per_token_unmined": -0.1, "clipped_up": 0.25, "clipped_down": None, "num_sequences": 8, "num_tokens": 80,
    }  # fmt: skip
    return StepReport(**{**usual, **changes})  # type: ignore[arg-type]


def push_facts(**changes: Any) -> PushFacts:
    usual = {
        "method": "gloo", "why": "", "seconds": 1.5, "num_members": 2, "worst_nats": 1e-6, "separation_nats": 1.0,
        "cached_prefix_nats": None, "canaries": "passed", "proof_s": 0.1,
    }  # fmt: skip
    return PushFacts.read({**usual, **changes})
