"""A judge that knows the truth and errs at a stated rate."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from bcpg_cluster.assets.chain.task import step_truths
from bcpg_cluster.records import ErrorType, StepRule, VerdictStatus
from bcpg_cluster.stages.fakes.faults import Faults, _CallCounter
from bcpg_cluster.stages.fakes.skill import hash_unit
from bcpg_cluster.stages.judge.protocol import JudgeCase, Judged, Judgement


class FakeJudge:
    """A :class:`~bcpg_cluster.stages.judge.protocol.Judge`: the truth with noise, the same noise for the same step.

    Args:
        recall: the chance that a right step is called right.
        precision: the chance that a step called right is right, where ``base_rate`` of the steps are right.
        truth: of every step of a case; the embedded task's by default.
        rule: which truth of the embedded task it is.
        scores: say it as a score (0.9 and 0.1) instead of a label.
    """

    def __init__(
        self,
        name: str = "fake-judge",
        *,
        recall: float = 0.9,
        precision: float = 0.9,
        base_rate: float = 0.5,
        truth: Callable[[JudgeCase], Sequence[bool]] | None = None,
        rule: StepRule = "propagated",
        scores: bool = False,
        faults: Faults = Faults(),
    ) -> None:
        self.name = name
        self._recall = recall
        # precision = recall b / (recall b + f (1 - b)), solved for f: the chance that a wrong step is called right.
        self._false_accept = recall * base_rate * (1 - precision) / (precision * (1 - base_rate))
        if self._false_accept > 1.0:
            raise ValueError(f"recall {recall} and precision {precision} are impossible at base rate {base_rate}")
        self._truth = truth or partial(_chain_truth, rule=rule)
        self._rule = rule
        self._scores = scores
        self._faults = faults
        self._calls = _CallCounter(faults)

    @property
    def version(self) -> str:
        """Its name, noise and rule."""
        rule = "" if self._rule == "propagated" else f"/{self._rule}"
        return f"{self.name}/{self._recall}/{self._false_accept:.6g}{rule}"

    def judge(self, cases: Sequence[JudgeCase]) -> Judged:
        """Noisy verdicts; with ``Faults.output`` set every step comes back without one."""
        with self._calls.call(len(cases), (text for case in cases for text in (case.problem, *case.steps))):
            return Judged(tuple(map(self._judge_case, cases)))

    def close(self) -> None:
        """Refuse further calls."""
        self._calls.close()

    def _judge_case(self, case: JudgeCase) -> tuple[Judgement, ...]:
        if self._faults.output is not None:
            is_lost = self._faults.output == "aborted"
            status = VerdictStatus.ENGINE_LOST if is_lost else VerdictStatus.UNPARSABLE
            return (Judgement(status),) * len(case.steps)
        try:
            truths = self._truth(case)
        except ValueError:
            return (Judgement(VerdictStatus.REFUSED),) * len(case.steps)
        return tuple(self._judge_step(case, index, is_right) for index, is_right in enumerate(truths))

    def _judge_step(self, case: JudgeCase, index: int, is_right: bool) -> Judgement:
        chance = self._recall if is_right else self._false_accept
        says_right = hash_unit(self.name, case.problem, *case.steps[: index + 1]) < chance
        if self._scores:
            return Judgement(VerdictStatus.JUDGED, score=0.9 if says_right else 0.1)
        error_type = ErrorType.NONE if says_right else ErrorType.CALCULATION
        return Judgement(VerdictStatus.JUDGED, label=int(says_right), error_type=error_type)


def _chain_truth(case: JudgeCase, rule: StepRule) -> list[bool]:
    return [truth.is_correct for truth in step_truths(case.problem, case.steps, rule)]
