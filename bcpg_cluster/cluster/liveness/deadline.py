"""How long a lease may take, from what such leases took. Pure: no pools, no clocks.

A lease is overdue after ten times the longest lease of its kind that was finished, a minute at least, and never later than the
configured ceiling. Why ten: shards of one stage hold equally many prompts, so they differ by how long responses are, and by
what else the machine does; a factor of two or three is common, ten was not seen. Where it is wrong after all (a kind whose
first leases came from a cache), each further try gets twice the time, and the whole ceiling the last one and the one that decides
(after which a shard is worked on in parts). So what finishes within the ceiling is finished.
"""

from __future__ import annotations

from dataclasses import dataclass

FACTOR = 10.0
FLOOR_S = 60.0


def allowed_s(longest_s: float | None, ceiling_s: float, *, times: float = 1.0) -> float:
    """Seconds for a piece of work, when the longest of its kind so far took ``longest_s`` (``None``: nothing to compare with)."""
    return ceiling_s if longest_s is None else min(ceiling_s, max(FLOOR_S, FACTOR * longest_s) * times)


@dataclass(frozen=True, slots=True)
class DeadlineRule:
    """See the module's docstring.

    Attributes:
        ceiling_s: no lease may take longer, whatever others took.
        max_attempts: tries of one lease; the last has the ceiling.
    """

    ceiling_s: float
    max_attempts: int

    def seconds(self, longest_s: float | None, attempt: int, *, is_decisive: bool = False) -> float:
        """The time for a try at a lease.

        Args:
            longest_s: what the longest finished lease of its kind took; ``None`` when none was finished yet.
            attempt: from 1.
            is_decisive: it is the last try as it is, though not the last that the pool would grant.
        """
        if is_decisive or attempt >= self.max_attempts:
            return self.ceiling_s
        return allowed_s(longest_s, self.ceiling_s, times=2.0 ** (attempt - 1))

    def stall_s(self, longest_s: float | None) -> float:
        """How long a lease may stand still, once it is overdue, before it counts as hung and not as slow."""
        return max(FLOOR_S, longest_s or 0.0)


class LongestTimes:
    """The longest finished piece of every kind of work, in seconds."""

    def __init__(self) -> None:
        self._longest: dict[str, float] = {}

    def longest(self, kind: str) -> float | None:
        """``None`` when no piece of this kind was finished yet."""
        return self._longest.get(kind)

    def note(self, kind: str, seconds: float) -> bool:
        """A piece was finished; whether it was the first of its kind."""
        known = self._longest.get(kind)
        self._longest[kind] = max(seconds, known or 0.0)
        return known is None
