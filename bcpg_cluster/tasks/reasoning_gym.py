"""Problems that the package ``reasoning-gym`` makes, and its own scoring as a reward function.

Install it yourself (``pip install reasoning-gym``); this module imports it only when it is used.
"""

from __future__ import annotations

import json
import re

from bcpg_cluster.errors import DataError
from bcpg_cluster.records import Prompt
from bcpg_cluster.tasks.task import BOXED

REWARD_FUNCTION = "bcpg_cluster.tasks.reasoning_gym:score"
_BOX = "\\boxed{"
_TAG = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)


def make_prompts(generator: str, size: int, seed: int) -> list[Prompt]:
    """``size`` problems of one of its generators; the gold answer is the whole entry, which :func:`score` reads.

    Raises:
        DataError: the package is not installed, or has no such generator.
    """
    try:
        import reasoning_gym
    except ImportError as error:
        raise DataError(
            f"reasoning-gym cannot be imported: {error}",
            rule=f"the task reasoning_gym/{generator} is made by the package reasoning-gym",
            remedy="pip install reasoning-gym",
        ) from None
    try:
        entries = list(reasoning_gym.create_dataset(generator, size=size, seed=seed))
    except ValueError as error:
        raise DataError(
            f"reasoning-gym has no generator {generator!r}: {error}",
            rule="reasoning_gym/NAME names one of its generators",
            remedy="e.g. reasoning_gym/chain_sum",
        ) from None
    return [
        Prompt(
            f"reasoning_gym-{generator}-{seed}-{number}",
            BOXED.format(question=entry["question"]),
            json.dumps({"generator": generator, "entry": entry}, default=str),
        )
        for number, entry in enumerate(entries)
    ]


def score(answer_part: str, gold: str) -> float:
    r"""What reasoning-gym gives for the last ``\boxed{}`` or ``<answer>``; 0 without one. A reward function (1 is right)."""
    import reasoning_gym

    answer = find_answer(answer_part)
    if answer is None:
        return 0.0
    content = json.loads(gold)
    scorer = reasoning_gym.get_score_answer_fn(content["generator"])
    return float(scorer(answer, content["entry"]))


def find_answer(text: str) -> str | None:
    r"""The content of the last ``\boxed{}`` (its braces balanced), else of the last ``<answer>``, else ``None``."""
    start = text.rfind(_BOX)
    if start >= 0:
        depth = 1
        for position in range(start + len(_BOX), len(text)):
            depth += (text[position] == "{") - (text[position] == "}")
            if depth == 0:
                return text[start + len(_BOX) : position].strip()
    tags = _TAG.findall(text)
    return tags[-1].strip() if tags else None
