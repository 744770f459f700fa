"""Who may use how much of the time: all checks together end within the limit, and what one leaves over the later ones get."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

STOPPING_S = 5.0
"""What is kept back of the whole for killing a process and writing the file."""


@dataclass(frozen=True, slots=True)
class Turn:
    """What the clock allows a check.

    Attributes:
        limit_s: after this it is stopped.
        starts: false where less is left than it needs at the least.
    """

    limit_s: float
    starts: bool


def turn(shares: Sequence[float], index: int, *, total_s: float, elapsed_s: float, least_s: float) -> Turn:
    """The turn of check ``index``: it may run until its own and all earlier shares are used up.

    So a check that hangs takes its own share and what the earlier ones left over, never a later one's.

    Args:
        shares: of all checks, in order and in any unit.
        total_s: for all checks.
        elapsed_s: since the first began.
        least_s: what the check needs to say anything.
    """
    ends_s = (total_s - STOPPING_S) * sum(shares[: index + 1]) / sum(shares)
    limit_s = max(0.0, ends_s - elapsed_s)
    return Turn(limit_s, limit_s >= least_s)
