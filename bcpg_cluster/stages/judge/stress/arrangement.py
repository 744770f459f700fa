"""Perturbations that lay a solution's steps out in another way: cut in two, in another order, with an empty one. Pure."""

from __future__ import annotations

import random
import re
from itertools import pairwise

from bcpg_cluster.stages.judge.stress.perturbed import Effect, Perturbed, Solution

_LINE_BORDER = re.compile(r"\n+[ \t]*(?=\S)")
_SENTENCE_BORDER = re.compile(r"(?<=[.!?])[ \t]+(?=[A-Z\\$])")
_OPENERS = (("\\[", "\\]"), ("\\(", "\\)"), ("\\begin", "\\end"), ("{", "}"))
_FENCES = ("$", "$$", "```")
_FEWEST_WORDS = 3

_REFERENCE = re.compile(
    r"\b(?:so|therefore|thus|hence|then|this|that|these|those|it|its|they|them|there|since|which|such|above|now|next"
    r"|finally|again|also|wait|check|result|remaining|both|same|total|we get|we have)\b",
    re.IGNORECASE,
)
_NAME = re.compile(r"\d+(?:[.,]\d+)*|(?<![A-Za-z\\])[A-Za-z](?![A-Za-z])")
_NO_SYMBOLS = {"a", "A", "I", "s", "S"}


def split(solution: Solution, rng: random.Random) -> Perturbed | None:
    """One step is cut in two at the border of a line, or of a sentence where it has no such line.

    Never inside a formula or a code fence, and both parts say something: a number, or three words. A right step has two right
    parts, a wrong one a wrong part, so the original step's verdict is that all its parts are right (``folded_labels``).
    ``None`` where no step can be cut.
    """
    found = {index: borders for index, step in enumerate(solution.steps) if (borders := cut_places(step))}
    if not found:
        return None
    chosen = rng.choice(list(found))
    at = rng.choice(found[chosen])
    step = solution.steps[chosen]
    steps, origins = list(solution.steps), [*range(len(solution.steps))]
    steps[chosen : chosen + 1] = [step[:at], step[at:]]
    origins[chosen : chosen + 1] = [chosen, chosen]
    return Perturbed(tuple(steps), tuple(origins), (Effect.SAME,) * len(solution.steps))


def reordered(solution: Solution, rng: random.Random) -> Perturbed | None:
    """Two neighbours change places, of which neither needs the other, so that all steps keep their truth.

    They share no number and no single-letter symbol, and the second has no word that points back (so, then, it, ...); the first
    is not wrong, and the last step, which states the answer, stays. That is a rule of thumb: it passes over many pairs that could
    change places. ``None`` where there is no such pair.
    """
    places = [
        index
        for index, (first, second) in enumerate(pairwise(solution.steps[:-1]))
        if solution.truth[index] != 0
        and first.strip()
        and second.strip()
        and not _names(first) & _names(second)
        and not _REFERENCE.search(second)
    ]
    if not places:
        return None
    at = rng.choice(places)
    order = [*range(len(solution.steps))]
    order[at : at + 2] = [at + 1, at]
    return Perturbed(tuple(solution.steps[index] for index in order), tuple(order), (Effect.SAME,) * len(order))


def empty(solution: Solution, rng: random.Random) -> Perturbed:
    """A step of nothing but a line break stands before one of the steps; it has no truth, the others keep theirs."""
    at = rng.randrange(len(solution.steps))
    steps, origins = list(solution.steps), [*range(len(solution.steps))]
    return Perturbed(
        (*steps[:at], "\n", *steps[at:]), (*origins[:at], None, *origins[at:]), (Effect.SAME,) * len(steps)
    )


def cut_places(step: str) -> list[int]:
    """Where a step may be cut in two, as places in its text: line borders, else sentence borders."""
    for border in (_LINE_BORDER, _SENTENCE_BORDER):
        places = [match.end() for match in border.finditer(step)]
        if usable := [at for at in places if _is_open_ground(step[:at]) and _speaks(step[:at]) and _speaks(step[at:])]:
            return usable
    return []


def _is_open_ground(before: str) -> bool:
    """Whether no formula, group or code fence is open after this text."""
    before = before.replace("\\$", "")  # money
    is_balanced = all(before.count(opener) == before.count(closer) for opener, closer in _OPENERS)
    return is_balanced and all(before.count(fence) % 2 == 0 for fence in _FENCES)


def _speaks(part: str) -> bool:
    return any(character.isdigit() for character in part) or len(part.split()) >= _FEWEST_WORDS


def _names(text: str) -> set[str]:
    """The numbers and single-letter symbols of a text."""
    return set(_NAME.findall(text)) - _NO_SYMBOLS
