"""The truth of an embedded task as a judge: for measuring other judges, and as the upper bound of an ensemble."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from bcpg_cluster.assets.chain import task as chain
from bcpg_cluster.assets.sums import task as sums
from bcpg_cluster.records import ErrorType, StepRule, VerdictStatus
from bcpg_cluster.stages.judge.protocol import JudgeCase, Judged, Judgement

EmbeddedTask = Literal["chain", "sums"]

_STEP_TRUTHS = {"chain": chain.step_truths, "sums": sums.step_truths}


class TaskTruth:
    """A :class:`~bcpg_cluster.stages.judge.protocol.Judge` that knows; it refuses what is not a question of its task."""

    def __init__(self, task: EmbeddedTask, rule: StepRule = "propagated") -> None:
        self.name = f"{task}-truth"
        self._step_truths = _STEP_TRUTHS[task]
        self._rule: StepRule = rule

    @property
    def version(self) -> str:
        """The truth has one version for each rule."""
        return f"{self.name}/1" if self._rule == "propagated" else f"{self.name}/1/{self._rule}"

    def judge(self, cases: Sequence[JudgeCase]) -> Judged:
        """The true label and error type of every step."""
        return Judged(tuple(self._judge_case(case) for case in cases))

    def close(self) -> None:
        """Nothing to free."""

    def _judge_case(self, case: JudgeCase) -> tuple[Judgement, ...]:
        try:
            truths = self._step_truths(case.problem, case.steps, self._rule)
        except ValueError:
            return (Judgement(VerdictStatus.REFUSED),) * len(case.steps)
        return tuple(
            Judgement(VerdictStatus.JUDGED, label=int(truth.is_correct), error_type=ErrorType(truth.error_type))
            for truth in truths
        )
