"""A judge that knows the truth and errs at a stated rate."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from statistics import NormalDist

from bcpg_cluster.assets.chain.task import step_truths
from bcpg_cluster.records import ErrorType, StepRule, VerdictStatus
from bcpg_cluster.stages.fakes.faults import Faults, _CallCounter
from bcpg_cluster.stages.fakes.skill import hash_unit
from bcpg_cluster.stages.judge.protocol import JudgeCase, Judged, Judgement

_NORMAL = NormalDist()
_LEAST_UNIT = 2.0**-64  # hash_unit may be 0, which no normal quantile is


class FakeJudge:
    """A :class:`~bcpg_cluster.stages.judge.protocol.Judge`: the truth with noise, the same noise for the same step.

    Args:
        recall: the chance that a right step is called right.
        precision: the chance that a step called right is right, where ``base_rate`` of the steps are right.
        truth: of every step of a case; the embedded task's by default.
        rule: which truth of the embedded task it is.
        scores: say it as a score (0.9 and 0.1) instead of a label.
        correlation: in [0, 1], of the normal latents that decide what two judges of one ``ensemble`` say of a step. Each errs
            as often as without; two that err on half of the steps err together on 1/4 + asin(correlation)/(2 pi) of them.
        ensemble: judges of another name here share nothing.
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
        correlation: float = 0.0,
        ensemble: str = "fake-judges",
        faults: Faults = Faults(),
    ) -> None:
        if not 0.0 <= correlation <= 1.0:
            raise ValueError(f"a correlation of latents is in [0, 1], got {correlation}")
        self.name = name
        self._correlation = correlation
        self._ensemble = ensemble
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
        """Its name, noise, rule, and what it shares with others."""
        rule = "" if self._rule == "propagated" else f"/{self._rule}"
        shared = f"/{self._ensemble}:{self._correlation}" if self._correlation else ""
        return f"{self.name}/{self._recall}/{self._false_accept:.6g}{rule}{shared}"

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
        says_right = self._draw(case.problem, *case.steps[: index + 1]) < chance
        if self._scores:
            return Judgement(VerdictStatus.JUDGED, score=0.9 if says_right else 0.1)
        error_type = ErrorType.NONE if says_right else ErrorType.CALCULATION
        return Judgement(VerdictStatus.JUDGED, label=int(says_right), error_type=error_type)

    def _draw(self, *seen: str) -> float:
        """A number in [0, 1], uniform over what is seen; in part that of the whole ensemble where errors are correlated."""
        own = hash_unit(self.name, *seen)
        if not self._correlation:
            return own
        shared = hash_unit(self._ensemble, *seen)
        of_all, of_this = (_NORMAL.inv_cdf(max(unit, _LEAST_UNIT)) for unit in (shared, own))
        return _NORMAL.cdf(math.sqrt(self._correlation) * of_all + math.sqrt(1 - self._correlation) * of_this)


def _chain_truth(case: JudgeCase, rule: StepRule) -> list[bool]:
    return [truth.is_correct for truth in step_truths(case.problem, case.steps, rule)]
