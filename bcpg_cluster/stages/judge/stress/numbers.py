"""A number changed in one place: a right step becomes wrong. Pure."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator

from bcpg_cluster.stages.judge.stress.perturbed import Effect, Perturbed, Solution

_RESULT = re.compile(r"(?<![<>!:=])=[ \t]*(?:\\?\$)?[ \t]*-?[ \t]*(\d+)")
_ASSUMPTION = re.compile(
    r"\b(?:let|assume|suppose|if|denote|set|when|where|try|guess|put|take|choose|for|substitut\w*|plug\w*)\b[^.\n]*$",
    re.IGNORECASE,
)


def number(solution: Solution, rng: random.Random) -> Perturbed | None:
    """One digit is changed of a number that stands right of an equals sign, in a step that is known to be right.

    The equation is then false, so the step is wrong under every rule. The steps before it keep their truth; what those after it
    are depends on the rule, so they count nowhere. Equations that are assumed (``let n = 5``) are left alone. ``None`` where no
    right step has such a number.
    """
    places = [
        (index, place)
        for index, (step, true) in enumerate(zip(solution.steps, solution.truth, strict=True))
        if true == 1
        for place in _digits(step)
    ]
    if not places:
        return None
    chosen, at = rng.choice(places)
    step = solution.steps[chosen]
    other = rng.choice([digit for digit in "123456789" if digit != step[at]])
    steps = (*solution.steps[:chosen], step[:at] + other + step[at + 1 :], *solution.steps[chosen + 1 :])
    num_after = len(steps) - chosen - 1
    effects = (*(Effect.SAME,) * chosen, Effect.WRONG, *(Effect.UNKNOWN,) * num_after)
    return Perturbed(steps, tuple(range(len(steps))), effects)


def _digits(step: str) -> Iterator[int]:
    """Places of the digits, before any decimal point, of numbers that an equation claims."""
    for match in _RESULT.finditer(step):
        if not _ASSUMPTION.search(step[: match.start()]):
            yield from range(match.start(1), match.end(1))
