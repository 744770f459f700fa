"""PathFinder-PRM on transformers: two forwards a step, the second with what the first found (``stages.judge.prm.pathfinder``)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bcpg_cluster.records import VerdictStatus
from bcpg_cluster.stages.judge.prm.detection import CONTEXT_TOKENS, load_pathfinder
from bcpg_cluster.stages.judge.prm.layout import Rendered
from bcpg_cluster.stages.judge.prm.pathfinder import PathFinder
from bcpg_cluster.stages.judge.prm.transformers_model import (
    HeldModels,
    batch_tokens_of,
    capacity_of,
    check_options,
    hidden_states,
    load_model,
    pair_rows,
)
from bcpg_cluster.stages.judge.prm.windows import judgement
from bcpg_cluster.stages.judge.protocol import JudgeCase, Judged, Judgement


@dataclass(frozen=True, slots=True)
class _Asked:
    """Step ``step`` of a case, in view of those from ``first`` on."""

    case: int
    first: int
    step: int
    errors: Rendered


class TwoPassStepScorer:
    """A :class:`~bcpg_cluster.stages.judge.protocol.Judge` that scores each step by two inputs of its own.

    A step's ``raw`` says which errors the first pass found. Beyond the context the earliest steps are left out, never the one
    right before; ``raw`` then names the steps in view.

    The arguments are those of :class:`~bcpg_cluster.stages.judge.prm.transformers_scorer.TransformersStepScorer`;
    ``context_tokens`` means nothing here, since every step has as many earlier ones in view as fit.

    Raises:
        ConfigError: an unknown option, or a model without PathFinder's labels.
    """

    def __init__(
        self,
        model: str,
        name: str,
        *,
        engine_args: Mapping[str, Any],
        model_version: str | None = None,
        separator: str | None = None,
        system: str | None = None,
        context_tokens: int = CONTEXT_TOKENS,
    ) -> None:
        check_options(engine_args)
        self.name = name
        self._model_version = model_version or model
        self._family, config = load_pathfinder(model, engine_args, separator, system)
        self._capacity = capacity_of(engine_args, config)
        self._max_batch_tokens = batch_tokens_of(engine_args, self._capacity)
        backbone = load_model(model, engine_args)
        self._held = HeldModels(backbone, pair_rows(backbone, model, engine_args, self._family.pair))

    @property
    def version(self) -> str:
        """Model and input format: two scorers with the same version give the same scores."""
        return f"{self._model_version}/{self._family.version}/{self._capacity}"

    def judge(self, cases: Sequence[JudgeCase]) -> Judged:
        """Scores of all steps of all cases. Steps whose labels cannot be told apart, or that do not fit, are ``REFUSED``.

        Raises:
            EngineError: the scorer was closed, or a forward failed.
        """
        rows = [[Judgement(VerdictStatus.REFUSED)] * len(case.steps) for case in cases]
        with self._held.in_use() as (backbone, head):
            asked = [
                one for index, case in enumerate(cases) for one in _asked(self._family, index, case, self._capacity)
            ]
            errors = self._score(backbone, head, [one.errors for one in asked])
            found = [(sound > 0.5, consistent > 0.5) for sound, consistent in errors]
            rewards = self._score(
                backbone,
                head,
                [_second(self._family, cases[one.case], one, *two) for one, two in zip(asked, found, strict=True)],
            )
        for one, two, (reward,) in zip(asked, found, rewards, strict=True):
            rows[one.case][one.step] = judgement(reward, _note(one, *two))
        return Judged(tuple(map(tuple, rows)))

    def close(self) -> None:
        """Free the model."""
        self._held.free()

    def _score(self, backbone: Any, head: Any, inputs: Sequence[Rendered]) -> list[list[float]]:
        """P(``<+>``) against ``<->`` at the positions of every input, in order."""
        scores: list[list[float]] = [[] for _ in inputs]
        for index, hidden in hidden_states(backbone, [part.token_ids for part in inputs], self._max_batch_tokens):
            states = hidden[list(inputs[index].positions)].float()  # [N, H]
            scores[index] = (states @ head.T).softmax(-1)[:, 0].tolist()
        return scores


def _asked(family: PathFinder, index: int, case: JudgeCase, capacity: int) -> list[_Asked]:
    """The first pass over a case. Once a step has lost its earliest steps, all later ones have."""
    asked, first = [], 0
    for step in range(len(case.steps)):
        while True:
            rendered = family.errors(case.problem, case.steps[first : step + 1])
            if rendered is None:
                break
            # The second pass adds a few tokens: ", Correctness: <extra>".
            second = family.reward(case.problem, case.steps[first : step + 1], is_sound=True, is_consistent=True)
            if second is not None and len(second.token_ids) <= capacity:
                asked.append(_Asked(index, first, step, rendered))
                break
            if first >= max(step - 1, 0):
                break  # not without the step right before it
            first += 1
    return asked


def _second(family: PathFinder, case: JudgeCase, one: _Asked, is_sound: bool, is_consistent: bool) -> Rendered:
    steps = case.steps[one.first : one.step + 1]
    rendered = family.reward(case.problem, steps, is_sound=is_sound, is_consistent=is_consistent)
    assert rendered is not None  # its layout was there for two good labels, and labels are a token each
    return rendered


def _note(one: _Asked, is_sound: bool, is_consistent: bool) -> str:
    found = [name for name, is_good in (("mathematics", is_sound), ("consistency", is_consistent)) if not is_good]
    view = [f"steps {one.first}-{one.step} in view"] if one.first else []
    return "; ".join([*(f"{name} error" for name in found), *view])
