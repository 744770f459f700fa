"""Reads a run's prompts and checks their gold answers, before anything starts."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from bcpg_cluster.config.embedded import resolve_asset
from bcpg_cluster.config.prompts import GeneratedConfig
from bcpg_cluster.config.run import Config
from bcpg_cluster.config.task_defaults import check_tasks
from bcpg_cluster.errors import DataError
from bcpg_cluster.prompts.files import line_of
from bcpg_cluster.prompts.sets import PromptSets, check_sets, round_prompts
from bcpg_cluster.prompts.sources import Columns
from bcpg_cluster.prompts.tasks.registry import Made, read_prompt_source, train_split_of
from bcpg_cluster.records import Prompt
from bcpg_cluster.run.build.engines import make_verifier

_MAX_SHOWN = 20  # bad answers in one message


def read_all_prompts(config: Config) -> PromptSets:
    """Train and test prompts, checked (see ``prompts.files``)."""
    check_tasks(config)
    section = config.prompts
    generated = section.generated or GeneratedConfig()
    columns = None if section.columns is None else Columns(**section.columns.model_dump())
    read = partial(
        read_prompt_source,
        columns=columns,
        config_name=section.config_name,
        revision=section.revision,
        limit=section.limit,
    )
    tested = Made(generated.test_size, generated.test_seed, generated.parameters)
    test = read(resolve_asset(section.test), split=section.test_split, made=tested)
    more = {
        name: read(resolve_asset(path), split=section.test_split, made=tested)
        for name, path in section.more_tests.items()
    }
    held_out = frozenset(prompt.question for prompts in (test, *more.values()) for prompt in prompts)
    trained = Made(generated.train_size, generated.train_seed, generated.parameters, held_out)
    split = section.train_split or train_split_of(section.train)
    train = read(resolve_asset(section.train), split=split, made=trained)
    sets = PromptSets(train, test, more)
    check_sets(sets)
    round_prompts(train, 1, config.prompts.per_round, config.prompts.order, config.seed)
    if config.verify.kind != "math":  # math-verify would take minutes here; `validate` asks it
        check_golds(config, sets)
    return sets


def check_golds(config: Config, sets: PromptSets) -> None:
    """Let the verifier check the gold answers of all sets. Raises :class:`DataError` naming each bad one's place."""
    section = config.prompts
    sources = [(section.train, sets.train), (section.test, sets.test)]
    sources += [(section.more_tests[name], prompts) for name, prompts in sets.more_tests.items()]
    _check_sources(config, sources)


def check_answers(config: Config, prompts: Sequence[Prompt]) -> None:
    """Let the verifier check gold answers. Raises :class:`DataError` for those that no answer could match."""
    _check_sources(config, [("", prompts)])


def _check_sources(config: Config, sources: Sequence[tuple[str, Sequence[Prompt]]]) -> None:
    verifier = make_verifier(config)
    bad: list[tuple[str, int, Prompt, DataError]] = []
    num_checked = 0
    try:
        for source, prompts in sources:
            for row, prompt in enumerate(prompts):
                num_checked += 1
                try:
                    verifier.check_gold(prompt.answer)
                except DataError as error:
                    bad.append((source, row, prompt, error))
    finally:
        verifier.close()
    if bad:
        shown = "".join(
            f"\n    {_place(source, row, prompt)}: {error.problem}" for source, row, prompt, error in bad[:_MAX_SHOWN]
        )
        more = f"\n    and {len(bad) - _MAX_SHOWN} more" if len(bad) > _MAX_SHOWN else ""
        first = bad[0][-1]
        problem = f"{len(bad)} of {num_checked} gold answers cannot be used:{shown}{more}"
        raise DataError(problem, rule=first.rule, remedy=first.remedy)


def _place(source: str, row: int, prompt: Prompt) -> str:
    """Where a prompt stands: its line in a prompt file, its row (from 0) in any other source."""
    if not source:
        return f"prompt_id {prompt.prompt_id!r}"
    path = Path(resolve_asset(source)) if not source.startswith("task:") else None
    line = line_of(path, prompt) if path is not None and path.suffix in (".jsonl", ".json") and path.is_file() else None
    where = f"row {row}" if line is None else f"line {line}"
    return f"{source}, {where} (prompt_id {prompt.prompt_id!r})"
