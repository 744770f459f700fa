"""Prompt tables: what a round's stages start from, written by the coordinator from the run's problems."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from bcpg_cluster.records import Prompt, Receipt
from bcpg_cluster.store.layout import new_attempt
from bcpg_cluster.store.manifest import Manifest
from bcpg_cluster.store.rows import prompt_row
from bcpg_cluster.store.shards import write_shard

_WRITERS = 16  # files on their way to the disk at once
_AT_ONCE = 512  # shards a write to the manifest counts


def write_prompts(manifest: Manifest, round_: int, table: str, shards: Sequence[Sequence[Prompt]]) -> None:
    """The shards of a prompt table that are not there yet; several at a time, since each waits for the disk."""

    def write(shard: int) -> Receipt:
        return write_shard(
            manifest.run_dir,
            table=table,
            round_=round_,
            shard=shard,
            attempt=new_attempt(),
            rows=[prompt_row(prompt) for prompt in shards[shard]],
            seconds=0.0,
            metrics={},
        )

    missing = manifest.state.missing(round_, table, len(shards))
    with ThreadPoolExecutor(_WRITERS) as writers:
        for start in range(0, len(missing), _AT_ONCE):
            manifest.accept_all(list(writers.map(write, missing[start : start + _AT_ONCE])))
