"""From the answers of an LLM judge about one step to its verdict: a label, P(right), or a share of votes."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Sequence
from typing import Literal

from bcpg_cluster.records import VerdictStatus
from bcpg_cluster.stages.judge.llm.answer_schema import parse_reasons
from bcpg_cluster.stages.judge.protocol import Judgement

Says = Literal["label", "probability"]


def decided(votes: Sequence[Judgement], says: Says) -> Judgement:
    """The verdict on one step: a label from one vote, else a score.

    The score is the mean over the votes that answered, of P(right) or of their labels: the share that says right. At least half
    of the votes have to answer; otherwise the verdict's status is the most frequent one of those that did not (the first
    vote's in a tie), where an answer without P(right) is unparsable.

    Args:
        votes: the label drawn, and P(right) as ``score`` where it is wanted and known.
    """
    if (says == "label" and len(votes) == 1) or all(vote.status is VerdictStatus.NOT_ASKED for vote in votes):
        return votes[0]
    raw = votes[0].raw if len(votes) == 1 else json.dumps({"votes": [vote.raw for vote in votes]}, ensure_ascii=False)
    values = [value for vote in votes if (value := _value(vote, says)) is not None]
    if 2 * len(values) < len(votes):
        missing = [_failure(vote) for vote in votes if _value(vote, says) is None]
        return Judgement(Counter(missing).most_common(1)[0][0], raw=raw)
    return Judgement(VerdictStatus.JUDGED, score=math.fsum(values) / len(values), raw=raw)


def answers_in(raw: str) -> list[str]:
    """The answers that a verdict's ``raw`` holds: those of its votes, or the one that it is."""
    if raw.startswith('{"votes": ['):
        try:
            votes = json.loads(raw)["votes"]
        except ValueError:
            return [raw]
        if all(isinstance(vote, str) for vote in votes):
            return list(votes)
    return [raw]


def reasons_in(raw: str) -> dict[int, str]:
    """By step, the reason in the first of the answers that gives one."""
    reasons: dict[int, str] = {}
    for answer in answers_in(raw):
        reasons = {step: reason for step, reason in parse_reasons(answer).items() if reason} | reasons
    return reasons


def _value(vote: Judgement, says: Says) -> float | None:
    if vote.status is not VerdictStatus.JUDGED:
        return None
    return vote.score if says == "probability" else float(vote.label or 0)


def _failure(vote: Judgement) -> VerdictStatus:
    return VerdictStatus.UNPARSABLE if vote.status is VerdictStatus.JUDGED else vote.status
