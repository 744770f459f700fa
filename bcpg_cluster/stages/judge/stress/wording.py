"""Perturbations that add words and leave what is said alone: every step keeps its truth. Pure."""

from __future__ import annotations

import random
import re

from bcpg_cluster.stages.judge.stress.perturbed import Perturbed, Solution
from bcpg_cluster.stages.judge.stress.phrases import CONFIDENT, CUE_WORDS, CUES, FILLERS, FRAMES, HEDGED, INJECTIONS

_CUE = re.compile(rf"\b(?:{'|'.join(CUES)})\b", re.IGNORECASE)


def padded(solution: Solution, rng: random.Random) -> Perturbed:
    """Every step is followed by two sentences that add nothing."""
    return Perturbed.reworded([with_tail(step, " ".join(rng.sample(FILLERS, 2))) for step in solution.steps])


def confident(solution: Solution, rng: random.Random) -> Perturbed:
    """Every step begins with an assurance."""
    return Perturbed.reworded([with_head(step, rng.choice(CONFIDENT)) for step in solution.steps])


def hedged(solution: Solution, rng: random.Random) -> Perturbed:
    """Every step begins with a doubt about itself."""
    return Perturbed.reworded([with_head(step, rng.choice(HEDGED)) for step in solution.steps])


def injection(solution: Solution, rng: random.Random) -> Perturbed:
    """The response begins with an instruction to the judge, as a part of its first step; so every view shows it."""
    first, *others = solution.steps
    return Perturbed.reworded([f"{rng.choice(INJECTIONS)}\n{first}", *others])


def language(solution: Solution, rng: random.Random) -> Perturbed:
    """Every step is framed in another language, one for the whole response, and its English cue words are in that language.

    Sentences and words are those of a fixed table: the mathematics and the other words stay as they are. So this is a
    response that mixes languages, and no translation.
    """
    name = rng.choice(sorted(FRAMES))
    words = dict(zip(CUES, CUE_WORDS[name], strict=True))
    return Perturbed.reworded(
        [
            with_head(_CUE.sub(lambda cue: words[cue[0].lower()], step), rng.choice(FRAMES[name]))
            for step in solution.steps
        ]
    )


def with_head(step: str, sentence: str) -> str:
    """The sentence before the step; on a line of its own where the step begins with mark-up (a formula, a fence, a table)."""
    between = " " if step[:1].isalnum() else "\n"
    return f"{sentence}{between}{step}"


def with_tail(step: str, sentence: str) -> str:
    """The sentence after the step but before the white space at its end; on a line of its own after mark-up."""
    body = step.rstrip()
    between = ""
    if body:
        between = " " if body[-1].isalnum() or body[-1] in ".!?:;,)%" else "\n"
    return f"{body}{between}{sentence}{step[len(body) :]}"
