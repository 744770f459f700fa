"""Which leases of a pool are overdue: the rule of ``deadline.py`` over a pool's clock, its history and its heartbeats."""

from __future__ import annotations

import math
from collections.abc import Callable

from bcpg_cluster.cluster.leases import Lease
from bcpg_cluster.cluster.liveness.deadline import DeadlineRule, LongestTimes
from bcpg_cluster.cluster.liveness.heartbeats import EVERY_S

_ABSENCE_S = 10.0  # a driver that was stopped itself has answers to read before it calls a lease late


class LeaseDeadlines:
    """The deadlines of one pool's leases. A poll that finds :meth:`is_any_due` asks :meth:`why_overdue` of all of them."""

    def __init__(self, rule: DeadlineRule, clock: Callable[[], float]) -> None:
        self._rule, self._clock = rule, clock
        self._times = LongestTimes()
        self._next = math.inf  # no lease is overdue before
        self._looked = clock()
        self._was_absent = False

    def is_any_due(self) -> bool:
        """Whether a lease may be overdue. Called in every poll; after a yes, every lease is asked about."""
        now = self._clock()
        self._was_absent, self._looked = now - self._looked > _ABSENCE_S, now
        if now <= self._next:
            return False
        self._next = math.inf  # each lease that is asked about sets it anew
        return True

    def begin(self, lease: Lease) -> None:
        """A lease was handed out."""
        self._next = min(self._next, lease.began + self._allowed_s(lease))

    def end(self, lease: Lease) -> None:
        """A lease was finished: the next of its kind may take as long as it took, and a good deal longer."""
        if self._times.note(lease.work.kind, self._clock() - lease.began):
            self._next = -math.inf  # all others of its kind have another deadline now

    def why_overdue(self, lease: Lease, idle_s: float | None) -> str | None:
        """Why a lease is given up; ``None`` while it is not.

        Args:
            idle_s: for how long its work has not got on; ``None`` when nothing is known of it.
        """
        now, allowed_s = self._clock(), self._allowed_s(lease)
        deadline = max(lease.began + allowed_s, lease.spared_until)
        if now > deadline:
            ceiling = lease.began + self._rule.ceiling_s
            is_slow = idle_s is not None and idle_s < self._rule.stall_s(self._times.longest(lease.work.kind))
            if self._was_absent and not lease.spared_until:
                deadline = now + _ABSENCE_S
            elif is_slow and now < ceiling:
                deadline = min(now + EVERY_S, ceiling)
            else:
                return f"{lease.work.label} took longer than {max(allowed_s, math.floor(now - lease.began)):.0f} s"
            lease.spared_until = deadline
        self._next = min(self._next, deadline)
        return None

    def _allowed_s(self, lease: Lease) -> float:
        # What can be taken back is, one try before the last: to be worked on in parts, or left out.
        is_decisive = lease.work.take_back is not None and 1 < lease.attempt == self._rule.max_attempts - 1
        return self._rule.seconds(self._times.longest(lease.work.kind), lease.attempt, is_decisive=is_decisive)
