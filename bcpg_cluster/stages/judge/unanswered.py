"""Work that a judge's engine mostly left unanswered: to be done again, not recorded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from bcpg_cluster.records import VerdictStatus
from bcpg_cluster.stages.judge.protocol import Judgement

UNANSWERED: Final = (VerdictStatus.TIMEOUT, VerdictStatus.ENGINE_LOST)
MIN_UNANSWERED_CASES: Final = 3


def mostly_unanswered(rows: Sequence[Sequence[Judgement]], max_unanswered: float) -> str | None:
    """What is wrong where the engine failed rather than single cases; ``None`` where these rows can be recorded.

    A few cases alone may be too slow for it, so fewer than three of them without an answer are recorded, unless nothing
    at all came and the connection was lost.

    Args:
        rows: the judgements of every case.
        max_unanswered: the largest share of the steps that may have no answer, in [0, 1].
    """
    said = [judgement for row in rows for judgement in row if judgement.status is not VerdictStatus.NOT_ASKED]
    lost = [judgement for judgement in said if judgement.status in UNANSWERED]
    num_cases = sum(any(judgement.status in UNANSWERED for judgement in row) for row in rows)
    is_gone = bool(said) and all(judgement.status is VerdictStatus.ENGINE_LOST for judgement in said)
    if not is_gone and (num_cases < MIN_UNANSWERED_CASES or len(lost) <= max_unanswered * len(said)):
        return None
    return (
        f"answered on {len(said) - len(lost)} of {len(said)} steps of {len(rows)} cases (at least "
        f"{1 - max_unanswered:.0%} are wanted); the last: {lost[-1].raw}"
    )
