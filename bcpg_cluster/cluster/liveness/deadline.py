"""How long a lease may take, from what such leases took. Pure: no pools, no clocks.

A lease is overdue after ten times the longest lease of its kind that was finished, a minute at least, and never later than the
configured ceiling. Why ten: shards of one stage hold equally many prompts, so they differ by how long responses are, and by
what else the machine does; a factor of two or three is common, ten was not seen. Where it is wrong after all (a kind whose
first leases came from a cache), each further try gets twice the time and the last one the whole ceiling, so what finishes
within the ceiling is finished.
"""

from __future__ import annotations

from dataclasses import dataclass

FACTOR = 10.0
FLOOR_S = 60.0


@dataclass(frozen=True, slots=True)
class DeadlineRule:
    """See the module's docstring.

    Attributes:
        ceiling_s: no lease may take longer, whatever others took.
        max_attempts: tries of one lease; the last has the ceiling.
    """

    ceiling_s: float
    max_attempts: int
    factor: float = FACTOR
    floor_s: float = FLOOR_S

    def seconds(self, longest_s: float | None, attempt: int, *, is_decisive: bool = False) -> float:
        """The time for a try at a lease.

        Args:
            longest_s: what the longest finished lease of its kind took; ``None`` when none was finished yet.
            attempt: from 1.
            is_decisive: it is the last try as it is, though not the last that the pool would grant.
        """
        if longest_s is None or is_decisive or attempt >= self.max_attempts:
            return self.ceiling_s
        return min(self.ceiling_s, max(self.floor_s, self.factor * longest_s) * 2.0 ** (attempt - 1))

    def stall_s(self, longest_s: float | None) -> float:
        """How long a lease may stand still, once it is overdue, before it counts as hung and not as slow."""
        return max(self.floor_s, longest_s or 0.0)


class LeaseTimes:
    """The longest finished lease of every kind of work, in seconds."""

    def __init__(self) -> None:
        self._longest: dict[str, float] = {}

    def longest(self, kind: str) -> float | None:
        """``None`` when no lease of this kind was finished yet."""
        return self._longest.get(kind)

    def note(self, kind: str, seconds: float) -> bool:
        """A lease was finished; whether it was the first of its kind."""
        known = self._longest.get(kind)
        self._longest[kind] = max(seconds, known or 0.0)
        return known is None
