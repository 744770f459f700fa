"""Work that no member has yet, and who gets what: the ordinary, and what has to be a member's only lease."""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Sequence

from bcpg_cluster.cluster.leases import Slot, Work


class WorkQueue:
    """Pieces of work with the number of their next try. Those that are to be alone come first."""

    def __init__(self) -> None:
        self._ordinary: deque[tuple[Work, int]] = deque()
        self._alone: deque[tuple[Work, int]] = deque()

    def __len__(self) -> int:
        return len(self._ordinary) + len(self._alone)

    def add(self, work: Work) -> None:
        """Queue a piece of work for its first try."""
        self._of(work).append((work, 1))

    def put_back(self, work: Work, attempt: int) -> None:
        """Put a piece of work that was lost before the others of its sort."""
        self._of(work).appendleft((work, attempt))

    def clear(self) -> int:
        """Forget all; how many pieces that were."""
        dropped = len(self)
        self._ordinary.clear()
        self._alone.clear()
        return dropped

    def _of(self, work: Work) -> deque[tuple[Work, int]]:
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
            lease(slot, *self._alone.popleft())
        while self._ordinary and free:
            num_leases, place, slot = free[0]
            lease(slot, *self._ordinary.popleft())
            if num_leases + 1 < most:
                heapq.heapreplace(free, (num_leases + 1, place, slot))
            else:
                heapq.heappop(free)
