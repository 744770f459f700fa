"""Work that no member has yet, and who gets what: the ordinary, and what has to be a member's only lease."""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Sequence
from itertools import count

from bcpg_cluster.cluster.leases import Slot, Work


class _LongestFirst:
    """Pieces of work with the number of their next try: what was lost before all else, then the longest."""

    def __init__(self) -> None:
        self._waiting: list[tuple[float, int, Work, int]] = []
        self._numbers = count(1)

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, work: Work, attempt: int, *, is_lost: bool = False) -> None:
        number = next(self._numbers)
        rank = (-math.inf, -number) if is_lost else (-work.size, number)
        heapq.heappush(self._waiting, (*rank, work, attempt))

    def pop(self) -> tuple[Work, int]:
        *_, work, attempt = heapq.heappop(self._waiting)
        return work, attempt

    def clear(self) -> None:
        self._waiting.clear()


class WorkQueue:
    """Work that no member has yet, longest first. What is to be alone comes before the rest."""

    def __init__(self) -> None:
        self._ordinary, self._alone = _LongestFirst(), _LongestFirst()

    def __len__(self) -> int:
        return len(self._ordinary) + len(self._alone)

    def add(self, work: Work) -> None:
        """Queue a piece of work for its first try."""
        self._of(work).add(work, 1)

    def put_back(self, work: Work, attempt: int) -> None:
        """Put a piece of work that was lost before the others of its sort."""
        self._of(work).add(work, attempt, is_lost=True)

    def clear(self) -> int:
        """Forget all; how many pieces that were."""
        dropped = len(self)
        self._ordinary.clear()
        self._alone.clear()
        return dropped

    def _of(self, work: Work) -> _LongestFirst:
        return self._alone if work.is_alone else self._ordinary

    def hand_out(self, slots: Sequence[Slot], most: int, lease: Callable[[Slot, Work, int], None]) -> None:
        """Give work to members that are free for it, always to one with the fewest leases.

        Args:
            most: leases a member may have at once.
            lease: begins a try of a piece of work on a member.
        """
        if not self:
            return
        free = [
            (len(slot.leases), place, slot)
            for place, slot in enumerate(slots)
            if slot.is_ready and not slot.is_draining and len(slot.leases) < most and not slot.is_taken
        ]
        heapq.heapify(free)
        while self._alone and free:
            num_leases, _, slot = heapq.heappop(free)
            if num_leases:  # it gets nothing more until it is idle
                break
            lease(slot, *self._alone.pop())
        while self._ordinary and free:
            num_leases, place, slot = free[0]
            lease(slot, *self._ordinary.pop())
            if num_leases + 1 < most:
                heapq.heapreplace(free, (num_leases + 1, place, slot))
            else:
                heapq.heappop(free)
