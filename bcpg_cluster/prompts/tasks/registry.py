"""All ready-made tasks by name, and their prompts from the hub or a local copy."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Set
from dataclasses import dataclass, field
from typing import Any

from bcpg_cluster.errors import DataError
from bcpg_cluster.prompts.columns import Columns, ReadPrompts
from bcpg_cluster.prompts.files import read_prompt_file
from bcpg_cluster.prompts.sources import read_mapped_prompts, read_rows
from bcpg_cluster.prompts.tasks.code_sets import CODE_TASKS
from bcpg_cluster.prompts.tasks.math_sets import MATH_TASKS
from bcpg_cluster.prompts.tasks.reasoning_gym import REWARD_FUNCTION
from bcpg_cluster.prompts.tasks.task import Measure, Task
from bcpg_cluster.records import Prompt

TASKS: dict[str, Task] = {task.name: task for task in (*MATH_TASKS, *CODE_TASKS)}
TASK = "task:"  # task:NAME, or task:NAME=SOURCE for a local copy
GYM = "reasoning_gym/"  # followed by a generator's name


@dataclass(frozen=True, slots=True)
class Made:
    """How problems are made, where a task's problems are.

    Attributes:
        size: how many; all different.
        seed: of the generator.
        parameters: by generator, then by name.
        excluded: questions that must not be among them.
    """

    size: int = 500
    seed: int = 0
    parameters: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    excluded: Set[str] = frozenset()


def find_task(name: str) -> Task:
    """The task of that name; ``reasoning_gym/NAME`` is a task for every generator of that package.

    Raises:
        DataError: an unknown task; names the known ones.
    """
    if name.startswith(GYM):
        return Task(
            name=name,
            hub_id=None,
            test_split="test",
            question="question",
            reward="function",
            reward_function=REWARD_FUNCTION,
            measure=Measure(num_samples=4),
            read_answer=lambda row, where: "",
            source="https://arxiv.org/abs/2505.24760",
        )
    if name not in TASKS:
        near = difflib.get_close_matches(name, TASKS, n=1)
        raise DataError(
            f"unknown task {name!r}",
            rule=f"tasks are {', '.join(TASKS)} and {GYM}NAME",
            remedy=f"did you mean {near[0]}?" if near else "name one of them, or map the columns of your own data set",
        )
    return TASKS[name]


def read_task(
    name: str,
    *,
    source: str | None = None,
    split: str | None = None,
    revision: str | None = None,
    limit: int | None = None,
    size: int = 500,
    seed: int = 0,
    parameters: Mapping[str, Any] | None = None,
    excluded: Set[str] = frozenset(),
) -> list[Prompt]:
    """The prompts of a ready-made task.

    Args:
        name: see :func:`find_task`.
        source: a local file or directory with the same columns, or another hub id; without it the task's own hub id.
        split: by default the task's test split (where the source has splits).
        revision: of the hub data set.
        limit: only the first so many.
        size, seed, parameters, excluded: of problems that reasoning-gym makes; see ``reasoning_gym.make_prompts``.

    Raises:
        DataError: the task is unknown, cannot be read, or has an invalid row.
    """
    task = find_task(name)
    if name.startswith(GYM):
        from bcpg_cluster.prompts.tasks.reasoning_gym import make_prompts

        generator = name.removeprefix(GYM)
        return make_prompts(generator, size, seed, parameters=parameters, excluded=excluded)[:limit]
    rows = read_rows(
        source or str(task.hub_id),
        split=split or task.test_split,
        config_name=None if source else task.config_name,
        revision=revision,
        data_files=() if source else task.data_files,
    )
    return task.prompts(rows)[:limit]


def split_task(source: str) -> tuple[str, str | None]:
    """The name in ``task:NAME``, and the place of ``task:NAME=PLACE``."""
    name, _, place = source.removeprefix(TASK).partition("=")
    return name, place or None


def train_split_of(source: str) -> str | None:
    """The split of a ready-made task that may be trained on; ``None`` for other sources, and for pure benchmarks."""
    return find_task(split_task(source)[0]).train_split if source.startswith(TASK) else None


def read_prompt_source(
    source: str,
    columns: Columns | None = None,
    *,
    split: str | None = None,
    config_name: str | None = None,
    revision: str | None = None,
    limit: int | None = None,
    made: Made | None = None,
) -> ReadPrompts:
    """Prompts from anywhere a config may name, and the rows that are none.

    ``task:NAME`` (or ``task:NAME=SOURCE``) is a ready-made task. Anything else is a table whose columns are mapped; without
    ``columns``, a ``.jsonl`` file is a prompt file (``prompts.files``) and other tables have the columns
    ``question`` and ``answer``. ``made`` is for tasks whose problems are made.

    Raises:
        DataError: see the readers.
    """
    if source.startswith(TASK):
        name, place = split_task(source)
        made = made or Made()
        prompts = read_task(
            name,
            source=place,
            split=split,
            revision=revision,
            limit=limit,
            size=made.size,
            seed=made.seed,
            parameters=made.parameters.get(name.removeprefix(GYM)),
            excluded=made.excluded,
        )
        return ReadPrompts(source, prompts, num_rows=len(prompts))
    if columns is None and source.endswith((".jsonl", ".jsonl.gz")):
        return read_prompt_file(source, limit)
    return read_mapped_prompts(
        source, columns or Columns(), split=split, config_name=config_name, revision=revision, limit=limit
    )
