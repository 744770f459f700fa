"""Heartbeats of a pool's members: which process still answers, and how its work gets on.

A member that has work is asked every few seconds, one question at a time. Silence is counted in looks, not read from the clock:
a driver that was itself stopped for an hour has not looked, so no member was silent meanwhile. A member whose interpreter is
held up by one long call of a C library cannot answer either, so the patience is long against any such call.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from bcpg_cluster.cluster.leases import Slot
from bcpg_cluster.cluster.runtime import Beating

EVERY_S = 5.0
# A pool of a thousand is asked every 20 s, so that a beat costs its driver fifty calls a second at most.
_SPREAD_S = 0.02


class Heartbeats:
    """Asks the members of one pool. Members that are no :class:`Beating` are left alone: nothing can stop them by themselves.

    Args:
        silence_s: how long a member may leave a question unanswered.
    """

    def __init__(self, silence_s: float, clock: Callable[[], float]) -> None:
        self._silence_s, self._clock = silence_s, clock
        self._looked = clock()

    def look(self, slots: Iterable[Slot]) -> list[Slot]:
        """Ask who is due, unless that was done a moment ago; those that have been silent for too long."""
        now, several = self._clock(), list(slots)
        every_s = max(EVERY_S, _SPREAD_S * len(several))
        if now - self._looked < every_s:
            return []
        passed, self._looked = min(now - self._looked, 2 * every_s), now
        return [slot for slot in several if self._is_silent(slot, passed)]

    def _is_silent(self, slot: Slot, passed: float) -> bool:
        pulse, member = slot.pulse, slot.member
        if pulse.beat is not None and not pulse.beat.done():
            pulse.silent_s += passed
            return pulse.silent_s > self._silence_s
        if pulse.beat is not None and pulse.beat.exception() is None:
            pulse.idle_s = pulse.beat.result()
        pulse.silent_s = 0.0
        pulse.beat = member.beat() if slot.leases and isinstance(member, Beating) else None
        return False
