"""How large a pool should be, from its queue alone. Pure: no pools, no clocks.

A pool wants one member for every ``target_queue_per_actor`` pieces of work that wait or are under way. It grows to that at once,
since work that waits costs time; it shrinks to the largest size it wanted in the last ``scale_down_after_s``, since an engine takes
long to start and queues come in waves. (The stabilisation window is the one of Kubernetes' horizontal pod autoscaler.)
"""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ScalingRule:
    """See ``config.pools.PoolConfig``.

    Attributes:
        low, high: bounds of the size; they are kept whatever the queue is.
        target_queue_per_actor: pieces of work, waiting or under way, for every member.
        scale_down_after_s: how long a smaller size must have been enough before the pool shrinks to it.
    """

    low: int
    high: int
    target_queue_per_actor: float
    scale_down_after_s: float

    def wanted(self, num_pieces: int) -> int:
        """The size for so many pieces of work, waiting or under way."""
        return min(max(math.ceil(num_pieces / self.target_queue_per_actor), self.low), self.high)


Wishes = tuple[tuple[float, int], ...]
"""Sizes that were wanted and may still hold a pool up: (when in seconds, size), later and smaller from left to right."""


def first_wish(size: int, now_s: float) -> Wishes:
    """Where the rule begins: the size a pool has counts as wanted now."""
    return ((now_s, size),)


def decide(rule: ScalingRule, wishes: Wishes, num_pieces: int, now_s: float) -> tuple[int, Wishes]:
    """The size a pool should have, and what to remember for the next decision.

    Args:
        wishes: what the decision before gave, or :func:`first_wish`.
        now_s: on any clock that does not go back.
    """
    wanted = rule.wanted(num_pieces)
    oldest = now_s - rule.scale_down_after_s
    # An older wish that is no larger can never decide again.
    kept = (*(wish for wish in wishes if wish[0] > oldest and wish[1] > wanted), (now_s, wanted))
    return min(max(kept[0][1], rule.low), rule.high), kept
