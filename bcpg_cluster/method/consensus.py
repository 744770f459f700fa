"""From the judges' votes on a wrong response to one label a step (Eqs. 3-5).

A vote is a label or a score; scores meet their threshold here, so a new lambda never re-runs a judge. A judge that has
nothing usable to say abstains, which is never a vote for a step (docs/method.md: fail closed): under the paper's rule a
step on which anybody abstains is not mined.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from bcpg_cluster.records import VerdictStatus


class JudgeVote(Protocol):
    """What is read of a verdict: satisfied by ``records.Verdict`` and by ``engines.protocols.Judgement``."""

    @property
    def status(self) -> VerdictStatus:
        """Whether there is a vote at all."""
        ...

    @property
    def label(self) -> int | None:
        """1 for right, 0 for wrong; ``None`` for a judge that scores."""
        ...

    @property
    def score(self) -> float | None:
        """P(step is right) in [0, 1]; ``None`` for a judge that labels."""
        ...


@dataclass(frozen=True, slots=True)
class Consensus:
    """The labels of one response's steps, and how they came about.

    Attributes:
        labels: I_{i,k} of Eq. 5 (or of another rule), one per step: 1 means right (it may be mined).
        judge_labels: each judge's own labels by Eqs. 3-4, ``None`` where it abstained.
        abstained: by judge, how many of its verdicts have which status other than ``JUDGED``.
        num_undecided: steps on which at least one judge abstained; rule ``all`` mines none of them.
    """

    labels: list[int]
    judge_labels: dict[str, list[int | None]]
    abstained: dict[str, dict[VerdictStatus, int]]
    num_undecided: int


def _all_say_right(labels: Sequence[int | None]) -> int:
    """Eq. 5: right only when every judge says so."""
    return int(all(label == 1 for label in labels))


def _most_say_right(labels: Sequence[int | None]) -> int:
    """Right when more than half of all judges say so, those that abstain included in "all". Not the paper's rule."""
    return int(2 * sum(label == 1 for label in labels) > len(labels))


_RULES: dict[str, Callable[[Sequence[int | None]], int]] = {"all": _all_say_right, "majority": _most_say_right}


def vote_label(vote: JudgeVote, threshold: float | None = None) -> int | None:
    """One judge's label for one step: its own (Eq. 3), or score > lambda (Eq. 4); ``None`` when it abstains.

    Raises:
        ValueError: a vote that claims to be one but carries neither or both, or something out of range, or a score
            for which there is no threshold.
    """
    if vote.status is not VerdictStatus.JUDGED:
        return None
    if (vote.label is None) == (vote.score is None):
        raise ValueError(f"a judged step carries a label or a score, got label={vote.label} score={vote.score}")
    if vote.label is not None:
        if vote.label not in (0, 1):
            raise ValueError(f"a label is 0 or 1, got {vote.label}")
        return int(vote.label)
    if threshold is None:
        raise ValueError("a judge that scores needs a threshold (lambda of Eq. 4)")
    assert vote.score is not None
    if not 0.0 <= vote.score <= 1.0:  # also false for NaN
        raise ValueError(f"a score is in [0, 1], got {vote.score}")
    return int(vote.score > threshold)


def consensus(
    votes: Mapping[str, Sequence[JudgeVote]], thresholds: Mapping[str, float], rule: str = "all"
) -> Consensus:
    """Combine the judges' votes on the steps of one wrong response (Eq. 5).

    Args:
        votes: by judge, one vote per step.
        thresholds: lambda by judge, for those that score.
        rule: ``all`` is the paper's AND over the judges; ``majority`` wants more than half of all of them, so two judges
            must agree under either, and with three one may differ or abstain.

    Raises:
        ValueError: no judges, votes of different length, an unknown rule, or a vote that is none (:func:`vote_label`).
    """
    if rule not in _RULES:
        raise ValueError(f"unknown consensus rule {rule!r}; known: {', '.join(sorted(_RULES))}")
    if not votes:
        raise ValueError("a consensus needs at least one judge")
    lengths = {judge: len(of_judge) for judge, of_judge in votes.items()}
    if len(set(lengths.values())) != 1:
        raise ValueError(f"every judge votes on every step, got {lengths} votes")
    bad = {judge: value for judge, value in thresholds.items() if not math.isfinite(value)}
    if bad:
        raise ValueError(f"thresholds must be finite, got {bad}")
    judge_labels = {
        judge: [vote_label(vote, thresholds.get(judge)) for vote in of_judge] for judge, of_judge in votes.items()
    }
    by_step = list(zip(*judge_labels.values(), strict=True))
    abstained: dict[str, dict[VerdictStatus, int]] = {}
    for judge, of_judge in votes.items():
        statuses: Counter[VerdictStatus] = Counter(vote.status for vote in of_judge)
        abstained[judge] = {status: n for status, n in statuses.items() if status is not VerdictStatus.JUDGED}
    return Consensus(
        labels=[_RULES[rule](labels) for labels in by_step],
        judge_labels=judge_labels,
        abstained=abstained,
        num_undecided=sum(None in labels for labels in by_step),
    )
