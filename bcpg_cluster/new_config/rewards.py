"""How answers are checked, from a reward function's name or from what the gold answers look like."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bcpg_cluster.errors import DataError
from bcpg_cluster.stages.verify.math_answer import MathVerifier

ANSWER_PATTERN = r"(?i)answer(?: is)?:?\s*\**\s*([^\s*.,]+)"
"""Reads "The answer is: **B**" and "Answer: B"."""


def read_reward(reward: str | None, golds: Sequence[str], *, opens_thinking: bool) -> tuple[dict[str, Any], str]:
    """Section ``verify``, and a line for people about it."""
    more = {"prompt_opens_thinking": True} if opens_thinking else {}
    if reward is not None:
        function = absolute_function(reward)
        return {"kind": "function", "function": function, **more}, f"rewards: {function}"
    if are_mathematics(golds):
        return {"kind": "math", **more}, "rewards: math-verify, since it can read the gold answers"
    pattern = {"kind": "exact", "answer_pattern": ANSWER_PATTERN}
    return (
        pattern,
        "rewards: the text after the last 'answer', compared exactly, since math-verify cannot read the gold answers",
    )


def absolute_function(name: str) -> str:
    """A function that is named by file gets the file's absolute path; one named by module stays."""
    place, _, function = name.rpartition(":")
    return f"{Path(place).expanduser().absolute()}:{function}" if place.endswith(".py") else name


def are_mathematics(golds: Sequence[str]) -> bool:
    """Whether math-verify can read every gold answer, and most have a digit: it also takes words, as products of letters."""
    if sum(any(character.isdigit() for character in gold) for gold in golds) * 2 <= len(golds):
        return False
    verifier = MathVerifier(10.0, prompt_opens_thinking=False)
    try:
        for gold in golds:
            verifier.check_gold(gold)
    except DataError:
        return False
    finally:
        verifier.close()
    return True
