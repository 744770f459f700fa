"""A pool's pieces of work: what is asked, who has it, how long it may take."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from bcpg_cluster.cluster.runtime import Member, MemberSpec
from bcpg_cluster.errors import DamagedShardError


@dataclass(frozen=True, slots=True)
class PoolLimits:
    """How a pool behaves; see ``config.pools.PoolConfig``."""

    leases_per_member: int = 2
    lease_timeout_s: float = 3600.0
    start_timeout_s: float = 600.0
    max_attempts: int = 3
    placement_timeout_s: float = 1800.0


@dataclass(frozen=True, slots=True)
class Work:
    """A piece of work: ``start`` begins it on a member, anew for every attempt."""

    key: tuple[Any, ...]
    start: Callable[[Member], Future[Any]]
    label: str = ""


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
class _Lease:
    work: Work
    attempt: int
    answer: Future[Any]
    deadline: float


@dataclass(slots=True, eq=False)
class _Slot:
    member: Member
    spec: MemberSpec
    ready: Future[Any]
    asked: float
    start_deadline: float | None = None  # from when it has a node
    next_look: float = 0.0
    is_ready: bool = False
    is_draining: bool = False
    is_dismissed: bool = False
    leases: list[_Lease] = field(default_factory=list)
    busy_s: float = 0.0
    busy_since: float | None = None
    ready_since: float | None = None
