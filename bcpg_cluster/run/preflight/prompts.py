"""Reads a run's prompts and checks their gold answers, before anything starts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial

from bcpg_cluster.config.embedded import resolve_asset
from bcpg_cluster.config.prompts import GeneratedConfig
from bcpg_cluster.config.run import Config
from bcpg_cluster.config.task_defaults import check_tasks
from bcpg_cluster.errors import DataError
from bcpg_cluster.prompts.bad_rows import BadRow, BadRowsError
from bcpg_cluster.prompts.columns import Columns, ReadPrompts
from bcpg_cluster.prompts.sets import PromptSets, check_sets, round_prompts
from bcpg_cluster.prompts.tasks.registry import Made, read_prompt_source, train_split_of
from bcpg_cluster.records import Prompt
from bcpg_cluster.run.preflight.golds import unusable_golds

_MAX_SHOWN = 20  # bad answers in one message
_WAY_OUT = "--skip-bad (prompts.skip_bad) leaves such rows out, counted and recorded in the run"


def read_all_prompts(config: Config, *, ask_math_verify: bool = False) -> PromptSets:
    """Train and test prompts, read and checked.

    Rows that cannot be used, and gold answers that no response could match, are an error that names all of them; with
    ``prompts.skip_bad`` they are left out and kept in :attr:`PromptSets.skipped`.

    Args:
        ask_math_verify: also check golds that math-verify compares, which takes minutes for many; ``skip_bad`` implies it.

    Raises:
        DataError: see above, or nothing is left of a set, a test question is trained on, a round asks for too many.
    """
    check_tasks(config)
    read = _read_sets(config)
    found = {key: of_set.bad for key, of_set in read.items()}
    if config.verify.kind != "math" or ask_math_verify or config.prompts.skip_bad:
        golds = _bad_golds(config, read)
        read = {key: _without(of_set, golds[key]) for key, of_set in read.items()}
        found = {key: _in_order(*rows, *golds[key].values()) for key, rows in found.items()}
    bad = [row for rows in found.values() for row in rows]
    if bad and not config.prompts.skip_bad:
        raise BadRowsError(bad, sum(of_set.num_rows for of_set in read.values()), way_out=_WAY_OUT)
    for key, of_set in read.items():
        if not of_set.prompts:
            raise BadRowsError(found[key], of_set.num_rows)
    sets = PromptSets(
        read["prompts.train"].prompts,
        read["prompts.test"].prompts,
        {name: read[f"prompts.more_tests.{name}"].prompts for name in config.prompts.more_tests},
        {key: rows for key, rows in found.items() if rows},
    )
    check_sets(sets)
    round_prompts(sets.train, 1, config.prompts.per_round, config.prompts.order, config.seed)
    return sets


def _in_order(*rows: BadRow) -> tuple[BadRow, ...]:
    return tuple(sorted(rows, key=lambda row: row.number))


def _read_sets(config: Config) -> dict[str, ReadPrompts]:
    """Every set by its config key, test sets first: what a package makes to train on must not be among them."""
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
    tests = {"prompts.test": section.test}
    tests |= {f"prompts.more_tests.{name}": path for name, path in section.more_tests.items()}
    found = {key: read(resolve_asset(path), split=section.test_split, made=tested) for key, path in tests.items()}
    held_out = frozenset(prompt.question for of_set in found.values() for prompt in of_set.prompts)
    trained = Made(generated.train_size, generated.train_seed, generated.parameters, held_out)
    split = section.train_split or train_split_of(section.train)
    return {"prompts.train": read(resolve_asset(section.train), split=split, made=trained), **found}


def _bad_golds(config: Config, read: Mapping[str, ReadPrompts]) -> dict[str, dict[int, BadRow]]:
    """The prompts whose gold answers the verifier refuses, by set and index."""
    refused = unusable_golds(config, (prompt.answer for of_set in read.values() for prompt in of_set.prompts))
    return {
        key: {
            index: _bad_gold(of_set, index, prompt, refused[prompt.answer])
            for index, prompt in enumerate(of_set.prompts)
            if prompt.answer in refused
        }
        for key, of_set in read.items()
    }


def _bad_gold(read: ReadPrompts, index: int, prompt: Prompt, error: DataError) -> BadRow:
    number = read.numbers[index] if read.numbers else index
    problem = f"(prompt_id {prompt.prompt_id!r}) {error.problem}"
    return BadRow(
        read.source, read.unit, number, "a gold answer that cannot be used", problem, error.rule, error.remedy
    )


def _without(read: ReadPrompts, golds: Mapping[int, BadRow]) -> ReadPrompts:
    if not golds:
        return read
    kept = [prompt for index, prompt in enumerate(read.prompts) if index not in golds]
    return replace(read, prompts=kept, numbers=[n for index, n in enumerate(read.numbers) if index not in golds])


def check_answers(config: Config, prompts: Sequence[Prompt]) -> None:
    """Let the verifier check gold answers. Raises :class:`DataError` for those that no answer could match."""
    refused = unusable_golds(config, (prompt.answer for prompt in prompts))
    bad = [(prompt, refused[prompt.answer]) for prompt in prompts if prompt.answer in refused]
    if bad:
        shown = "".join(f"\n    prompt_id {prompt.prompt_id!r}: {error.problem}" for prompt, error in bad[:_MAX_SHOWN])
        more = f"\n    and {len(bad) - _MAX_SHOWN} more" if len(bad) > _MAX_SHOWN else ""
        raise DataError(
            f"{len(bad)} of {len(prompts)} gold answers cannot be used:{shown}{more}",
            rule=bad[0][1].rule,
            remedy=bad[0][1].remedy,
        )
