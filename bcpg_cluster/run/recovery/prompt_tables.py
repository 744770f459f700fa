"""Prompt tables: what a round's stages start from, written by the coordinator from the run's problems."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from bcpg_cluster.config.run import Config
from bcpg_cluster.prompts.sets import PromptSets, round_prompts, split_shards
from bcpg_cluster.records import Prompt, Receipt
from bcpg_cluster.store.layout import new_attempt
from bcpg_cluster.store.manifest import Manifest
from bcpg_cluster.store.path import RunPath
from bcpg_cluster.store.rows import prompt_row
from bcpg_cluster.store.shards import write_shard

_WRITERS = 16  # files on their way to the disk at once
_AT_ONCE = 512  # shards a write to the manifest counts


def dealt(config: Config, sets: PromptSets, round_: int) -> list[list[Prompt]]:
    """The shards of the problems that a round is dealt."""
    section = config.prompts
    chosen = round_prompts(sets.train, round_, section.per_round, section.order, config.seed)
    return split_shards(chosen, config.generate.prompts_per_shard)


def measured_prompts(config: Config, sets: PromptSets) -> list[list[Prompt]]:
    """The shards of the problems that every round is measured on."""
    of_sets = sets.measured(config.evaluate.num_prompts).values()
    return split_shards([prompt for of_set in of_sets for prompt in of_set], config.evaluate.prompts_per_shard)


def write_prompt_shard(run_dir: RunPath, table: str, round_: int, shard: int, prompts: Sequence[Prompt]) -> Receipt:
    """Write one shard, under an attempt of its own."""
    return write_shard(
        run_dir,
        table=table,
        round_=round_,
        shard=shard,
        attempt=new_attempt(),
        rows=[prompt_row(prompt) for prompt in prompts],
        seconds=0.0,
        metrics={},
    )


def write_prompts(manifest: Manifest, round_: int, table: str, shards: Sequence[Sequence[Prompt]]) -> None:
    """The shards of a prompt table that are not there yet; several at a time, since each waits for the disk."""

    def write(shard: int) -> Receipt:
        return write_prompt_shard(manifest.run_dir, table, round_, shard, shards[shard])

    missing = manifest.state.missing(round_, table, len(shards))
    with ThreadPoolExecutor(_WRITERS) as writers:
        for start in range(0, len(missing), _AT_ONCE):
            manifest.accept_all(list(writers.map(write, missing[start : start + _AT_ONCE])))
