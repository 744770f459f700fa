"""A labelled solution before and after a perturbation, and what its steps have to do with each other. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TypeVar

_Value = TypeVar("_Value")


class Effect(StrEnum):
    """What a perturbation does to the truth of an original step."""

    SAME = "same"
    """The truth stays, so the verdict must."""
    WRONG = "wrong"
    """A right step was made wrong."""
    UNKNOWN = "unknown"
    """What the step is now depends on the rule, so it counts nowhere."""


@dataclass(frozen=True, slots=True)
class Solution:
    """A solution with labelled steps, as perturbations read it.

    Attributes:
        truth: by step 1 for right, 0 for wrong, ``None`` for not known.
        gold: the gold answer; ``None`` where there is none.
    """

    problem: str
    steps: tuple[str, ...]
    truth: tuple[int | None, ...]
    gold: str | None = None


@dataclass(frozen=True, slots=True)
class Perturbed:
    """A perturbed solution.

    Attributes:
        steps: the new steps.
        origins: by new step, the original step that it is or is a part of; ``None`` for an inserted one. Every original step is
            the origin of at least one.
        effects: by original step, what became of its truth.
        shows_gold: whether the judge is shown the gold answer; ``None`` leaves that to the judge's own setting.
    """

    steps: tuple[str, ...]
    origins: tuple[int | None, ...]
    effects: tuple[Effect, ...]
    shows_gold: bool | None = None

    @classmethod
    def reworded(cls, steps: Sequence[str], *, shows_gold: bool | None = None) -> Perturbed:
        """Steps that say the same as the original ones, one for one."""
        return cls(tuple(steps), tuple(range(len(steps))), (Effect.SAME,) * len(steps), shows_gold)


def truth_after(truth: Sequence[int | None], perturbed: Perturbed) -> list[int | None]:
    """The truth of every original step once it is perturbed; ``None`` where it is not known."""
    known = {Effect.WRONG: 0, Effect.UNKNOWN: None}
    return [known.get(effect, true) for effect, true in zip(perturbed.effects, truth, strict=True)]


def folded_labels(labels: Sequence[int | None], perturbed: Perturbed) -> list[int | None]:
    """Verdicts on the new steps as verdicts on the original ones: a step is right when all its parts are.

    One wrong part makes it wrong; without one, a part without a verdict leaves the step without.

    Raises:
        ValueError: not one label a new step.
    """
    folded: list[int | None] = []
    for parts in _parts(labels, perturbed):
        folded.append(0 if 0 in parts else None if None in parts else 1)
    return folded


def folded_scores(scores: Sequence[float | None], perturbed: Perturbed) -> list[float | None]:
    """Scores of the new steps as scores of the original ones: the least of its parts; ``None`` where a part has none.

    Raises:
        ValueError: not one score a new step.
    """
    folded: list[float | None] = []
    for parts in _parts(scores, perturbed):
        known = [part for part in parts if part is not None]
        folded.append(min(known) if len(known) == len(parts) else None)
    return folded


def _parts(values: Sequence[_Value], perturbed: Perturbed) -> list[list[_Value]]:
    """What was said of the parts of every original step."""
    parts: list[list[_Value]] = [[] for _ in perturbed.effects]
    for value, origin in zip(values, perturbed.origins, strict=True):
        if origin is not None:
            parts[origin].append(value)
    return parts
