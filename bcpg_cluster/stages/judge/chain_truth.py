"""The truth of the embedded task as a judge: for measuring other judges, and as the upper bound of an ensemble."""

from __future__ import annotations

from collections.abc import Sequence

from bcpg_cluster.assets.chain import step_truths
from bcpg_cluster.records import ErrorType, StepRule, VerdictStatus
from bcpg_cluster.stages.judge.protocol import JudgeCase, Judged, Judgement


class ChainTruth:
    """A :class:`~bcpg_cluster.stages.judge.protocol.Judge` that knows; it refuses what is not a chain."""

    name = "chain-truth"

    def __init__(self, rule: StepRule = "propagated") -> None:
        self._rule: StepRule = rule

    @property
    def version(self) -> str:
        """The truth has one version for each rule."""
        return "chain-truth/1" if self._rule == "propagated" else f"chain-truth/1/{self._rule}"

    def judge(self, cases: Sequence[JudgeCase]) -> Judged:
        """The true label and error type of every step."""
        return Judged(tuple(_judge_case(case, self._rule) for case in cases))

    def close(self) -> None:
        """Nothing to free."""


def _judge_case(case: JudgeCase, rule: StepRule) -> tuple[Judgement, ...]:
    try:
        truths = step_truths(case.problem, case.steps, rule)
    except ValueError:
        return (Judgement(VerdictStatus.REFUSED),) * len(case.steps)
    return tuple(
        Judgement(VerdictStatus.JUDGED, label=int(truth.is_correct), error_type=ErrorType(truth.error_type))
        for truth in truths
    )
