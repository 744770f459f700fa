"""Heartbeats of a pool's members: which process still answers, and how its work gets on.

A member that has work is asked every few seconds, one question at a time. Silence is counted in looks, not read from the clock:
a driver that was itself stopped for an hour has not looked, so no member was silent meanwhile. A member whose interpreter is
held up by one long call of a C library cannot answer either, so the patience is long against any such call.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from bcpg_cluster.cluster.runtime import Beating, Member

EVERY_S = 5.0
_SPREAD_S = (
    0.02  # a pool of a thousand is asked every 20 s, so that a beat costs its driver fifty calls a second at most
)


@dataclass(slots=True)
class Pulse:
    """What is known of a member's heartbeat.

    Attributes:
        beat: the question that was asked last; ``None`` while it has no work.
        silent_s: how long it has been left unanswered.
        idle_s: by label, seconds for which a call had not got on when the last answer was given.
    """

    beat: Future[Mapping[str, float]] | None = None
    silent_s: float = 0.0
    idle_s: Mapping[str, float] = field(default_factory=dict)

    def idle_for(self, label: str) -> float | None:
        """Seconds for which a call has not got on, as far as is known; ``None`` when nothing is known of it."""
        idle_s = self.idle_s.get(label)
        return None if idle_s is None else idle_s + self.silent_s


class Patient(Protocol):
    """A member as the pool keeps it."""

    @property
    def member(self) -> Member: ...  # noqa: D102
    @property
    def has_work(self) -> bool: ...  # noqa: D102
    @property
    def pulse(self) -> Pulse: ...  # noqa: D102


P = TypeVar("P", bound=Patient)


class Heartbeats:
    """Asks the members of one pool. Members that are no :class:`Beating` are left alone: nothing can stop them by themselves.

    Args:
        silence_s: how long a member may leave a question unanswered.
    """

    def __init__(self, silence_s: float, clock: Callable[[], float]) -> None:
        self._silence_s, self._clock = silence_s, clock
        self._looked = clock()

    def look(self, patients: Iterable[P]) -> list[P]:
        """Ask who is due, unless that was done a moment ago; those that have been silent for too long."""
        now, several = self._clock(), list(patients)
        every_s = max(EVERY_S, _SPREAD_S * len(several))
        if now - self._looked < every_s:
            return []
        passed, self._looked = min(now - self._looked, 2 * every_s), now
        return [patient for patient in several if self._is_silent(patient, passed)]

    def _is_silent(self, patient: Patient, passed: float) -> bool:
        pulse, member = patient.pulse, patient.member
        if pulse.beat is not None and not pulse.beat.done():
            pulse.silent_s += passed
            return pulse.silent_s > self._silence_s
        if pulse.beat is not None and pulse.beat.exception() is None:
            pulse.idle_s = pulse.beat.result()
        pulse.silent_s = 0.0
        pulse.beat = member.beat() if patient.has_work and isinstance(member, Beating) else None
        return False
