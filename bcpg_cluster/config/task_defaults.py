"""What a run takes from a ready-made task where its config is silent: how answers are checked, how the benchmark is measured.

It goes into the configuration itself, before that is checked: a run keeps it in its own ``config.yaml``, and no name decides
anything later.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from bcpg_cluster.config.prompts import PromptsConfig
from bcpg_cluster.config.run import Config
from bcpg_cluster.errors import ConfigError
from bcpg_cluster.prompts.tasks.registry import TASK, find_task, split_task
from bcpg_cluster.prompts.tasks.task import Task

MEASURED = ("num_samples", "temperature", "top_p")  # of `evaluate`; its max_tokens is what the run's model can take


def complete_from_tasks(content: dict[str, Any]) -> None:
    """Add to a configuration's content (in place) what its tasks say and it does not.

    ``verify.kind`` and ``verify.function`` come from the task that is trained on, or else measured; ``evaluate`` from the
    task that is measured. A section that is not a mapping is left to the configuration's own check.

    Raises:
        DataError: an unknown task.
    """
    prompts = content.get("prompts")
    if not isinstance(prompts, Mapping):
        return
    train, test = _task_in(prompts.get("train")), _task_in(prompts.get("test"))
    checked = train or test
    verify = content.setdefault("verify", {}) if checked else None
    if checked is not None and isinstance(verify, dict):
        kind = verify.setdefault("kind", checked.reward)
        if kind == "function" and checked.reward_function:
            verify.setdefault("function", checked.reward_function)
    evaluate = content.setdefault("evaluate", {}) if test else None
    if test is not None and isinstance(evaluate, dict):
        for key in MEASURED:
            evaluate.setdefault(key, getattr(test.measure, key))


def check_tasks(config: Config) -> None:
    """Raises :class:`ConfigError` where a task's gold answers are of a kind that the run's verifier cannot read."""
    for key, task in tasks_of(config.prompts):
        # A function of the user's own may read anything; numbers may be compared exactly.
        fits = config.verify.kind in ("function", task.reward, "exact" if task.reward == "math" else task.reward)
        if not fits:
            raise ConfigError(
                f"{key} is the task {task.name}, whose answers need verify.kind {task.reward!r}; this run has "
                f"{config.verify.kind!r}",
                rule="one verifier checks every answer of a run, in all its test files too",
                remedy=f"set verify.kind to {task.reward}, or measure that task in a run of its own",
            )


def task_notes(config: Config) -> list[str]:
    """For people: what each task of a run says, and where the run does otherwise; a line a task."""
    lines = []
    for key, task in tasks_of(config.prompts):
        said: dict[str, tuple[Any, Any]] = {"verify.kind": (task.reward, config.verify.kind)}
        if task.reward_function:
            said["verify.function"] = (task.reward_function, config.verify.function)
        if key == "prompts.test":
            said |= {f"evaluate.{n}": (getattr(task.measure, n), getattr(config.evaluate, n)) for n in MEASURED}
            limit = config.evaluate.max_tokens or config.generate.max_tokens
            said["evaluate.max_tokens"] = (task.measure.max_tokens, limit)
        same = ", ".join(f"{name} {theirs}" for name, (theirs, ours) in said.items() if theirs == ours)
        other = ", ".join(
            f"{name} {ours} (the task: {theirs})" for name, (theirs, ours) in said.items() if theirs != ours
        )
        parts = [f"as the task says: {same}" if same else "", f"otherwise: {other}" if other else ""]
        lines.append(
            f"{key}, task {task.name}: {'; '.join(part for part in parts if part)}; asked as {task.template!r}"
        )
    return lines


def tasks_of(prompts: PromptsConfig) -> Iterator[tuple[str, Task]]:
    """The ready-made tasks among a run's sources, by key."""
    more = {f"prompts.more_tests.{name}": source for name, source in prompts.more_tests.items()}
    for key, source in {"prompts.train": prompts.train, "prompts.test": prompts.test, **more}.items():
        task = _task_in(source)
        if task is not None:
            yield key, task


def _task_in(source: Any) -> Task | None:
    if not isinstance(source, str) or not source.startswith(TASK):
        return None
    return find_task(split_task(source)[0])
