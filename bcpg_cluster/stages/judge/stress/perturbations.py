"""All perturbations by name, each seeded by the content that it changes. Pure.

What they are taken from: step inflation, reordering by dependency and markers of confidence (EST-PRM, arXiv 2606.00437), changes of
style and of single facts (arXiv 2603.06621).
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from bcpg_cluster.stages.judge.stress.arrangement import empty, reordered, split
from bcpg_cluster.stages.judge.stress.numbers import number
from bcpg_cluster.stages.judge.stress.perturbed import Perturbed, Solution
from bcpg_cluster.stages.judge.stress.wording import confident, hedged, injection, language, padded


@dataclass(frozen=True, slots=True)
class Perturbation:
    """A perturbation.

    Attributes:
        apply: the perturbed solution; ``None`` for one that lacks what this needs.
        needs: what a solution must have, in words; empty where any will do.
    """

    apply: Callable[[Solution, random.Random], Perturbed | None]
    needs: str = ""


def gold_shown(solution: Solution, rng: random.Random) -> Perturbed | None:
    """The judge is shown the gold answer. ``None`` without one."""
    return Perturbed.reworded(solution.steps, shows_gold=True) if solution.gold is not None else None


def gold_hidden(solution: Solution, rng: random.Random) -> Perturbed | None:
    """The judge is not shown the gold answer. ``None`` without one, since there is nothing to hide."""
    return Perturbed.reworded(solution.steps, shows_gold=False) if solution.gold is not None else None


PERTURBATIONS: Mapping[str, Perturbation] = {
    "split": Perturbation(split, "a step with a line or sentence border"),
    "padded": Perturbation(padded),
    "reordered": Perturbation(reordered, "two neighbours of which neither needs the other"),
    "empty": Perturbation(empty),
    "confident": Perturbation(confident),
    "hedged": Perturbation(hedged),
    "injection": Perturbation(injection),
    "language": Perturbation(language),
    "number": Perturbation(number, "a right step with a number after an equals sign"),
    "gold_shown": Perturbation(gold_shown, "a gold answer"),
    "gold_hidden": Perturbation(gold_hidden, "a gold answer"),
}


def perturb(name: str, solution: Solution, seed: int) -> Perturbed | None:
    """The solution under a perturbation; ``None`` where it lacks what that needs.

    The same content and seed give the same, whatever other solutions stand beside it.

    Raises:
        KeyError: no perturbation of that name.
    """
    content = json.dumps([name, seed, solution.problem, solution.steps])
    digest = hashlib.sha256(content.encode()).digest()
    return PERTURBATIONS[name].apply(solution, random.Random(int.from_bytes(digest[:8], "big")))
