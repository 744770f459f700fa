"""Why a step is mined or not, in words a newcomer reads."""

from __future__ import annotations

from collections.abc import Mapping

from bcpg_cluster.records import Verdict, VerdictStatus
from bcpg_cluster.stages.weigh.consensus import ConsensusRule
from bcpg_cluster.watch.report.judge_quality import rule_name

_IN_WORDS = {
    "all": "every judge that votes must call it right",
    "any": "one judge that calls it right is enough",
    "majority": "more than half of the judges must call it right",
    "weighted": "the judges' votes, weighted by their accuracy, must make it more likely right than wrong",
}


def rule_words(rule: ConsensusRule) -> str:
    """The rule by its name, and what it takes."""
    words = _IN_WORDS.get(rule.name, f"at least {rule.num_needed} judges must call it right")
    silent = "counts against the step" if rule.abstention == "against" else "is left out"
    return f"{rule_name(rule)}: {words}; a missing verdict {silent}"


def why_step(
    rule: ConsensusRule,
    labels: Mapping[str, int | None],
    statuses: Mapping[str, str],
    *,
    is_last: bool,
    num_mined: int | None,
) -> str:
    """Which rule decided a step.

    Args:
        labels: by judge that votes, 1, 0 or ``None``.
        statuses: by judge, what the status of a missing verdict is.
        is_last: the last step states the answer and is never mined.
        num_mined: tokens of the step that the trainer saw as mined; ``None`` before weighing.
    """
    votes = ", ".join(
        f"{judge} {'right' if label else 'wrong' if label == 0 else statuses[judge].replace('_', ' ')}"
        for judge, label in labels.items()
    )
    is_right = rule.decide(labels)
    if is_last:
        return f"last step: it states the wrong answer and is never mined ({votes})"
    said = f"rule {rule_name(rule)}: {votes}, so {'right' if is_right else 'not right'}"
    missing = [judge for judge, label in labels.items() if label is None]
    if missing and not is_right:
        said += f"; {', '.join(missing)} gave no verdict"
    if num_mined is None:
        return said
    if is_right and not num_mined:
        return f"{said}; yet not mined: weigh.mine, weigh.flip_rate or a token shared with the next step"
    if num_mined and not is_right:
        return f"{said}; yet mined: weigh.flip_rate turned the label over"
    return said


def status_of(verdict: Verdict | None) -> str:
    """``judged``, the status of a missing verdict, or ``not judged`` where the judge has not come to the step."""
    return "not judged" if verdict is None else str(verdict.status)


def is_missing(verdict: Verdict | None) -> bool:
    """A verdict that should be there and is not usable."""
    return verdict is not None and verdict.status is not VerdictStatus.JUDGED
