"""Pools and members as displays show them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class MemberState:
    """A member as displays show it.

    Attributes:
        state: ``placing`` (no node has room for it yet), ``starting``, ``ready``, ``draining`` (finishing its last leases) or
            ``stalled`` (a trainer rank that does not answer, or has made no progress for half the time it is given).
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
        busy_s, ready_s: seconds in which members had work, and were ready, over all members that ever were. Between two readings,
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
