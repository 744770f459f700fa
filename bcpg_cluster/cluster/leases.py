"""A pool's pieces of work: what is asked, who has it, how long it may take."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from bcpg_cluster.cluster.runtime import Member, MemberSpec
from bcpg_cluster.errors import DamagedShardError


@dataclass(frozen=True, slots=True)
class PoolLimits:
    """How a pool behaves; see ``config.pools.PoolConfig``. ``lease_timeout_s`` is the ceiling of a lease's deadline."""

    leases_per_member: int = 2
    lease_timeout_s: float = 3600.0
    start_timeout_s: float = 600.0
    max_attempts: int = 3
    placement_timeout_s: float = 1800.0
    silence_timeout_s: float = 60.0
    in_flight: InFlight | None = None


@dataclass(frozen=True, slots=True)
class InFlight:
    """When a member may hold more leases than ``leases_per_member``: while those it has are too few requests for its engine.

    Attributes:
        requests_at_once: what the engine works on at the same time.
        most_leases: never more leases than this.
        expected: requests of a lease, as far as that is known before any has finished.
    """

    requests_at_once: int
    most_leases: int
    expected: float | None = None


class LeaseCount:
    """How many leases a member may hold, by the requests that the last finished ones took.

    Twice what the engine works on at once keeps its batch full: while one half is answered the other waits. One lease more, since
    one of them is always at its last few requests.

    Args:
        least: also the number while nothing is known of the requests that leases take.
        in_flight: ``None`` keeps it at ``least``.
    """

    def __init__(self, least: int, in_flight: InFlight | None) -> None:
        self._least, self._in_flight = least, in_flight
        expected = [] if in_flight is None or in_flight.expected is None else [in_flight.expected]
        self._num_requests: deque[float] = deque(expected, maxlen=32)

    def note(self, num_requests: float) -> None:
        """A lease has finished that took so many requests."""
        self._num_requests.append(num_requests)

    @property
    def most(self) -> int:
        """Leases of one member."""
        if self._in_flight is None or not self._num_requests:
            return self._least
        most = max(self._least, self._in_flight.most_leases)
        mean = sum(self._num_requests) / len(self._num_requests)
        wanted = 2 * self._in_flight.requests_at_once
        return most if mean * (most - 1) <= wanted else max(self._least, math.ceil(wanted / mean) + 1)


@dataclass(frozen=True, slots=True)
class Work:
    """A piece of work: ``start`` begins it on a member, anew for every attempt.

    Attributes:
        label: unique among the pieces under way, and the label of the call that ``start`` makes: heartbeats name it.
        kind: pieces of one kind take alike long; what they took decides how long the next may take.
        size: how long it is beside the other pieces that wait, in any unit that they share: the longest is handed out first, and
            equally long ones in the order in which they came.
        is_alone: it is the only lease of its member, so that the loss of the member can be laid at its door.
        num_requests: of a finished piece, by its result: what it asked of the member's engine; ``None`` where that is not known.
        take_back: asked when a member was lost under it (why): true when the asker deals with it and it is not tried again
            as it is; ``None`` tries it again until the pool's ``max_attempts``.
    """

    key: tuple[Any, ...]
    start: Callable[[Member], Future[Any]]
    label: str
    kind: str = ""
    size: float = 0.0
    is_alone: bool = False
    take_back: Callable[[str], bool] | None = None
    num_requests: Callable[[Any], float] | None = None


@dataclass(frozen=True, slots=True)
class Done:
    """A finished piece of work.

    Attributes:
        error: what it was asked to read is damaged: no member can do it, and no try is counted. There is no result then.
    """

    key: tuple[Any, ...]
    result: Any
    member: str
    error: DamagedShardError | None = None


@dataclass(slots=True)
class Lease:
    """One try of a piece of work on one member.

    Attributes:
        spared_until: it was overdue and not given up; 0 when it never was.
    """

    work: Work
    attempt: int
    answer: Future[Any]
    began: float
    spared_until: float = 0.0


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


@dataclass(slots=True, eq=False)
class Slot:
    """A member as its pool keeps it."""

    member: Member
    spec: MemberSpec
    ready: Future[Any]
    asked: float
    start_deadline: float | None = None  # from when it has a node
    next_look: float = 0.0
    host: str | None = None
    is_ready: bool = False
    is_draining: bool = False
    is_dismissed: bool = False
    leases: list[Lease] = field(default_factory=list)
    busy_s: float = 0.0
    busy_since: float | None = None
    ready_since: float | None = None
    pulse: Pulse = field(default_factory=Pulse)

    @property
    def is_taken(self) -> bool:
        """Whether it has a lease that is to be its only one."""
        return any(lease.work.is_alone for lease in self.leases)
