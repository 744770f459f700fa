"""How long the driver waits for a sign of progress from a busy member. It asks each about once a second.

A member is stuck when it

- leaves a question unanswered for ``heartbeat_s`` (its process was stopped, or its machine is gone), or
- answers, but has begun nothing new for :func:`~bcpg_cluster.cluster.liveness.deadline.allowed_s` of the piece it is at.

Time in which the driver itself stood still (a suspended machine, a stopped process) counts for neither.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass

from bcpg_cluster.cluster.lifecycle import progress
from bcpg_cluster.cluster.liveness.deadline import LongestTimes, allowed_s
from bcpg_cluster.cluster.liveness.rank_progress import RankProgress
from bcpg_cluster.cluster.runtime import Member

_LARGEST_GAP_S = 5.0  # between two looks; a longer one is the driver's own
_MOST_NAMED = 3  # that wait for the one that is stuck
_STALLED_AFTER_S = 10.0  # at most; see ProgressWatch.is_stalled


@dataclass(frozen=True, slots=True)
class ProgressLimits:
    """When a busy member counts as stuck.

    Attributes:
        ceiling_s: most seconds for one piece, and what holds while nothing is known to compare it with.
        heartbeat_s: seconds for an answer.
    """

    ceiling_s: float = 1800.0
    heartbeat_s: float = 60.0


@dataclass
class _Seen:
    """A member as last heard; ``moved_at`` and ``answered_at`` on the watch's own clock."""

    moved_at: float
    answered_at: float
    said: RankProgress | None = None
    asked: Future[RankProgress] | None = None


class ProgressWatch:
    """Watches the members of a group while they are busy. One thread looks; any may read :meth:`is_stalled`."""

    def __init__(self, limits: ProgressLimits = ProgressLimits(), clock: Callable[[], float] = time.monotonic) -> None:
        self._limits, self._clock = limits, clock
        self._guard = threading.Lock()
        self._read_at = clock()
        self._now = 0.0  # this watch's time: the clock's, without the driver's own gaps
        self._seen: dict[str, _Seen] = {}
        self._longest = LongestTimes()  # by kind of piece, over all members, those that are gone included

    def begin(self, members: Sequence[Member]) -> None:
        """A call begins: what was before it does not count."""
        with self._guard:
            self._pass_time()
            self._seen = {
                member.name: _Seen(self._now, self._now, self._said(member), self._asked(member)) for member in members
            }

    def look(self, busy: Sequence[Member]) -> str | None:
        """Take the answers of members that are still busy and ask them again; who is stuck, in words, or ``None``."""
        with self._guard:
            self._pass_time()
            for member in busy:
                self._hear(member)
            stuck = [member.name for member in busy if self._is_stuck(self._seen[member.name])]
            if not stuck:
                return None
            # One that is stuck has the others wait for it: the cause is the one silent longest, then the one still longest.
            cause = max(stuck, key=self._age_s)
            others = [self._words(member.name) for member in busy if member.name != cause]
            return "; ".join([self._words(cause), *others[:_MOST_NAMED]])

    def is_stalled(self, name: str) -> bool:
        """Whether a member shows no progress, though it may not be given up yet; for displays."""
        seen = self._seen.get(name)
        if seen is None:
            return False
        is_still = bool(seen.said and seen.said.doing) and self._now - seen.moved_at > self._deadline_s(seen) / 2
        return is_still or self._silent_s(seen) > 0

    def _pass_time(self) -> None:
        now = self._clock()
        self._now += min(now - self._read_at, _LARGEST_GAP_S)
        self._read_at = now

    def _said(self, member: Member) -> RankProgress | None:
        return self._seen[member.name].said if member.name in self._seen else None

    def _asked(self, member: Member) -> Future[RankProgress] | None:
        return self._seen[member.name].asked if member.name in self._seen else None

    def _hear(self, member: Member) -> None:
        seen = self._seen.setdefault(member.name, _Seen(self._now, self._now))
        if seen.asked is not None and seen.asked.done() and seen.asked.exception() is None:
            said, before = seen.asked.result(), seen.said
            seen.answered_at, seen.said = self._now, said
            if before is None or said.moves != before.moves:
                seen.moved_at = self._now
            if said.longest_s is not None:
                self._longest.note(said.doing, said.longest_s)
        if seen.asked is None or seen.asked.done():
            seen.asked = progress(member)

    def _deadline_s(self, seen: _Seen) -> float:
        longest_s = self._longest.longest(seen.said.doing) if seen.said else None
        return allowed_s(longest_s, self._limits.ceiling_s)

    def _is_stuck(self, seen: _Seen) -> bool:
        is_silent = self._now - seen.answered_at > self._limits.heartbeat_s
        return is_silent or self._now - seen.moved_at > self._deadline_s(seen)

    def _silent_s(self, seen: _Seen) -> float:
        """Seconds without an answer; 0 while it answers about as fast as it is asked."""
        silent_s = self._now - seen.answered_at
        return silent_s if silent_s > min(_STALLED_AFTER_S, self._limits.heartbeat_s / 2) else 0.0

    def _age_s(self, name: str) -> tuple[float, float]:
        seen = self._seen[name]
        return self._silent_s(seen), self._now - seen.moved_at

    def _words(self, name: str) -> str:
        seen = self._seen[name]
        place = f" ({seen.said.host}, pid {seen.said.pid})" if seen.said else ""
        silent_s = self._silent_s(seen)
        at = "at " if seen.said and seen.said.doing else ""
        where = f", {'last heard ' if silent_s else ''}{at}{seen.said.where}" if seen.said else ""
        silence = f", and has not answered for {silent_s:.0f} s" if silent_s else ""
        return f"{name}{place} made no progress for {self._now - seen.moved_at:.0f} s{where}{silence}"
