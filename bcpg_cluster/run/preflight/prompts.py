"""Reads a run's prompts and checks their gold answers, before anything starts."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial

from bcpg_cluster.config.embedded import resolve_asset
from bcpg_cluster.config.prompts import GeneratedConfig
from bcpg_cluster.config.run import Config
from bcpg_cluster.config.task_defaults import check_tasks
from bcpg_cluster.prompts.sets import PromptSets, check_sets, round_prompts
from bcpg_cluster.prompts.sources import Columns
from bcpg_cluster.prompts.tasks.registry import Made, read_prompt_source, train_split_of
from bcpg_cluster.records import Prompt
from bcpg_cluster.run.build.engines import make_verifier


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
    """:func:`check_answers` on all prompts of a run."""
    further = (prompt for prompts in sets.more_tests.values() for prompt in prompts)
    check_answers(config, [*sets.train, *sets.test, *further])


def check_answers(config: Config, prompts: Iterable[Prompt]) -> None:
    """Let the verifier check every gold answer. Raises :class:`DataError` for one it could never find equal."""
    verifier = make_verifier(config)
    try:
        for prompt in prompts:
            verifier.check_gold(prompt.answer)
    finally:
        verifier.close()
