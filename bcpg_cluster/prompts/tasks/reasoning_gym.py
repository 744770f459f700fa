"""Problems that the package ``reasoning-gym`` makes, and its own scoring as a reward function.

Install it yourself (``pip install reasoning-gym``); this module imports it only when it is used.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Mapping, Set
from dataclasses import fields
from typing import Any

from bcpg_cluster.errors import DataError
from bcpg_cluster.prompts.tasks.task import BOXED
from bcpg_cluster.records import Prompt

REWARD_FUNCTION = (
    "bcpg_cluster.tasks.reasoning_gym:score"  # runs keep it in their config: user_function knows where it is now
)
_DRAWS_PER_PROBLEM = 20  # small generators repeat themselves
_BOX = "\\boxed{"
_TAG = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)


def make_prompts(
    generator: str,
    size: int,
    seed: int,
    *,
    parameters: Mapping[str, Any] | None = None,
    excluded: Set[str] = frozenset(),
) -> list[Prompt]:
    """``size`` different problems of one of its generators; the gold answer is the whole entry, which :func:`score` reads.

    The package draws entry i of a data set from ``seed + i``: two sets with neighbouring seeds share nearly all problems. So
    what must not come again is named, and further entries are drawn in its place.

    Args:
        parameters: the generator's own, by name; those not given keep its defaults.
        excluded: questions (as they are asked) that must not be among them, such as those of the test set.

    Raises:
        DataError: the package is not installed, has no such generator, refuses a parameter, or has not that many problems.
    """
    try:
        from reasoning_gym import create_dataset
        from reasoning_gym.factory import DATASETS
    except ImportError as error:
        raise DataError(
            f"reasoning-gym cannot be imported: {error}",
            rule=f"the task reasoning_gym/{generator} is made by the package reasoning-gym",
            remedy="pip install reasoning-gym",
        ) from None
    if generator not in DATASETS:
        near = difflib.get_close_matches(generator, DATASETS, n=1)
        raise DataError(
            f"reasoning-gym has no generator {generator!r}",
            rule="reasoning_gym/NAME names one of its generators",
            remedy=f"did you mean reasoning_gym/{near[0]}?" if near else "e.g. reasoning_gym/chain_sum",
        )
    try:
        entries = create_dataset(generator, size=_DRAWS_PER_PROBLEM * size, seed=seed, **(parameters or {}))
    except (TypeError, ValueError, AssertionError) as error:  # what its settings raise
        known = sorted(field.name for field in fields(DATASETS[generator][1]) if field.name not in ("seed", "size"))
        raise DataError(
            f"reasoning-gym refuses the parameters {dict(parameters or {})} of {generator}: {error}",
            rule=f"{generator} has the parameters {', '.join(known)}",
            remedy="correct prompts.generated.parameters",
        ) from None
    prompts: dict[str, Prompt] = {}
    for number, entry in enumerate(entries):
        question = BOXED.format(question=entry["question"])
        if question not in excluded and question not in prompts:
            gold = json.dumps({"generator": generator, "entry": entry}, default=str)
            prompts[question] = Prompt(f"reasoning_gym-{generator}-{seed}-{number}", question, gold)
        if len(prompts) == size:
            return list(prompts.values())
    raise DataError(
        f"{_DRAWS_PER_PROBLEM * size} draws of {generator} gave {len(prompts)} different problems, not {size}",
        rule="all problems of a set differ, and none of the test set is trained on",
        remedy="ask for fewer (prompts.generated.train_size, test_size), or for harder ones (prompts.generated.parameters)",
    )


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
