"""From the judges' votes on a wrong response to one label a step (Eqs. 3-5).

A vote is a label or a score; scores meet their threshold here, so a new lambda never re-runs a judge. A judge that has
nothing usable to say abstains, which is never a vote for a step (docs/method.md: fail closed): under the paper's rule a
step on which any judge abstains is not mined. Other rules, and leaving abstentions out, are :class:`ConsensusRule`.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

from bcpg_cluster.records import VerdictStatus

RULES = ("all", "any", "k_of_n", "majority", "weighted")

Abstention = Literal["against", "left_out"]


class JudgeVote(Protocol):
    """What is read of a verdict: satisfied by ``records.Verdict`` and by ``stages.judge.protocol.Judgement``."""

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
        abstained: by judge, how many of its verdicts have which status other than ``JUDGED``; where it was not asked
            (``NOT_ASKED``) it did not abstain.
        num_undecided: steps on which at least one judge abstained; rule ``all`` mines none of them, unless abstentions are
            left out.
        unasked: by step, the judges that were not asked about it though their answers would decide it; empty where all were
            asked that had to be. Their label here is not known: 0 stands in its place.
    """

    labels: list[int]
    judge_labels: dict[str, list[int | None]]
    abstained: dict[str, dict[VerdictStatus, int]]
    num_undecided: int
    unasked: dict[int, list[str]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ConsensusRule:
    """When the judges together call a step right. Every rule is monotone: another vote for a step never loses it.

    Attributes:
        name: ``all`` is the paper's AND (Eq. 5); ``any`` its opposite; ``majority`` wants more than half of the judges;
            ``k_of_n`` at least ``num_needed`` of them; ``weighted`` a step that is more likely right than wrong, by
            :meth:`log_odds`.
        abstention: what a judge without a usable answer is. ``against`` counts it as a vote against the step (fail closed);
            ``left_out`` decides among those who answered (``k_of_n``: by the same share of them, rounded up). A step without
            any answer is right under no rule.
        num_needed: k of ``k_of_n``; ``None`` for the other rules.
        accuracies: for ``weighted``, by judge, the chance in [0.5, 1) that its label is true, of right and wrong steps alike
            (measured: the mean of its accuracy on either kind; plain accuracy is high for whoever always says the commoner).
            A judge that is wrong more often than not has no place in an ensemble.
        prior: for ``weighted``, the chance in (0, 1) that a step is right before any judge is asked. Asking for a posterior
            above q instead of above 1/2 is the same as the prior with log-odds logit(prior) - logit(q).

    Raises:
        ValueError: an unknown name, or options that the rule lacks, does not take, or that are out of range.
    """

    name: str = "all"
    abstention: Abstention = "against"
    num_needed: int | None = None
    accuracies: Mapping[str, float] = field(default_factory=dict)
    prior: float = 0.5

    def __post_init__(self) -> None:
        if self.name not in RULES:
            raise ValueError(f"unknown consensus rule {self.name!r}; known: {', '.join(RULES)}")
        if self.abstention not in ("against", "left_out"):
            raise ValueError(f"an abstention counts 'against' or is 'left_out', got {self.abstention!r}")
        if self.name == "k_of_n" and self.num_needed is None:
            raise ValueError("the rule k_of_n needs num_needed: how many judges must call a step right")
        if self.name != "k_of_n" and self.num_needed is not None:
            raise ValueError(f"num_needed is {self.num_needed}, which only k_of_n takes; the rule is {self.name!r}")
        if self.num_needed is not None and self.num_needed < 1:
            raise ValueError(f"k_of_n needs at least 1 vote, got {self.num_needed}")
        if (self.name == "weighted") != bool(self.accuracies):
            raise ValueError(
                f"accuracies belong to weighted and to no other rule, got {self.accuracies} for {self.name}"
            )
        bad = {judge: value for judge, value in self.accuracies.items() if not 0.5 <= value < 1.0}
        if bad:
            raise ValueError(f"an accuracy is in [0.5, 1), got {bad}")
        if not 0.0 < self.prior < 1.0:
            raise ValueError(f"a prior is in (0, 1), got {self.prior}")

    def check_judges(self, judges: Collection[str]) -> None:
        """Raises ``ValueError`` when these judges cannot decide by this rule: too few of them, or one without accuracy."""
        if not judges:
            raise ValueError("a consensus needs at least one judge")
        if self.num_needed is not None and self.num_needed > len(judges):
            raise ValueError(f"{self.num_needed} of {len(judges)} judges can never agree")
        unknown = sorted(set(judges) - set(self.accuracies)) if self.name == "weighted" else []
        if unknown:
            raise ValueError(f"rule weighted needs the accuracy of every judge, and has none of {unknown}")

    def decide(self, labels: Mapping[str, int | None]) -> int:
        """1 when the step counts as right. ``labels``: by judge 1, 0 or ``None`` (abstained)."""
        voted = [label for label in labels.values() if label is not None]
        if not voted:
            return 0
        if self.name == "weighted":
            return int(self.log_odds(labels) > 1e-12)  # votes that cancel out leave a rounding error
        asked = len(labels) if self.abstention == "against" else len(voted)
        return int(sum(voted) >= self._quorum(asked, len(labels)))

    def opinion(self, labels: Mapping[str, int | None]) -> int | None:
        """As :meth:`decide`, but ``None`` where the step is not right *only because* of abstentions: to measure a rule by.

        What is mined needs no such difference; a rule that is asked where the first mistake is should not have found one
        in a judge's silence.
        """
        if self.decide(labels):
            return 1
        if self.abstention == "left_out":
            return None if all(label is None for label in labels.values()) else 0
        return None if self.decide({judge: 1 if label is None else label for judge, label in labels.items()}) else 0

    def is_open(self, labels: Mapping[str, int | None], unasked: Collection[str]) -> bool:
        """Whether the decision would depend on what the ``unasked`` judges say, or on their saying nothing."""
        # Every rule is monotone: the two extremes bound all that they might say.
        answers = {self.decide({**labels, **dict.fromkeys(unasked, said)}) for said in (None, 0, 1)}
        return len(answers) > 1

    def log_odds(self, labels: Mapping[str, int | None]) -> float:
        """Log-odds that the step is right, given the labels, under ``weighted`` (judges independent given the step).

        logit(prior) + sum of +w for a judge that says right and -w for one that says wrong, w = log(a / (1 - a)) with its
        accuracy a. One that abstains adds -w under ``against`` and 0 under ``left_out``.
        """
        missing = -1 if self.abstention == "against" else 0
        terms = [
            _logit(self.accuracies[judge]) * (missing if label is None else 2 * label - 1)
            for judge, label in labels.items()
        ]
        return math.fsum([_logit(self.prior), *terms])

    def _quorum(self, asked: int, num_judges: int) -> int:
        """How many of ``asked`` judges must say right."""
        match self.name:
            case "all":
                return asked
            case "any":
                return 1
            case "majority":
                return asked // 2 + 1
            case _:  # k_of_n
                return -(-(self.num_needed or 0) * asked // num_judges)


def _logit(share: float) -> float:
    return math.log(share) - math.log1p(-share)


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
    votes: Mapping[str, Sequence[JudgeVote]], thresholds: Mapping[str, float], rule: str | ConsensusRule = "all"
) -> Consensus:
    """Combine the judges' votes on the steps of one wrong response (Eq. 5).

    Args:
        votes: by judge, one vote per step.
        thresholds: lambda by judge, for those that score.
        rule: a :class:`ConsensusRule`; a name alone stands for the rule with its defaults, abstentions counting against.

    Raises:
        ValueError: no judges, votes of different length, a rule that is unknown or cannot decide with these judges, or a vote
            that is none (:func:`vote_label`).
    """
    if isinstance(rule, str):
        rule = ConsensusRule(rule)
    rule.check_judges(votes)
    lengths = {judge: len(of_judge) for judge, of_judge in votes.items()}
    if len(set(lengths.values())) != 1:
        raise ValueError(f"every judge votes on every step, got {lengths} votes")
    bad = {judge: value for judge, value in thresholds.items() if not math.isfinite(value)}
    if bad:
        raise ValueError(f"thresholds must be finite, got {bad}")
    judge_labels = {
        judge: [vote_label(vote, thresholds.get(judge)) for vote in of_judge] for judge, of_judge in votes.items()
    }
    by_step = [dict(zip(judge_labels, labels, strict=True)) for labels in zip(*judge_labels.values(), strict=True)]
    abstained: dict[str, dict[VerdictStatus, int]] = {}
    for judge, of_judge in votes.items():
        statuses: Counter[VerdictStatus] = Counter(vote.status for vote in of_judge)
        abstained[judge] = {status: n for status, n in statuses.items() if status.is_missing}
    unasked = [
        [judge for judge, vote in zip(votes, of_step, strict=True) if vote.status is VerdictStatus.NOT_ASKED]
        for of_step in zip(*votes.values(), strict=True)
    ]
    return Consensus(
        labels=[rule.decide(labels) for labels in by_step],
        judge_labels=judge_labels,
        abstained=abstained,
        num_undecided=sum(
            any(label is None and judge not in out for judge, label in labels.items())
            for labels, out in zip(by_step, unasked, strict=True)
        ),
        unasked={step: out for step, out in enumerate(unasked) if out and rule.is_open(by_step[step], out)},
    )
