"""Reading a run's sealed tables shard by shard, for exports."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from bcpg_cluster.errors import RunDirectoryError
from bcpg_cluster.store.manifest import ManifestState
from bcpg_cluster.store.path import RunPath
from bcpg_cluster.store.rows import Row
from bcpg_cluster.store.shards import shard_by_shard


def rounds_with(state: ManifestState, tables: Sequence[str], asked: Sequence[int] = ()) -> list[int]:
    """The training rounds whose ``tables`` are all sealed: the ones asked for, else every one there is.

    Raises:
        RunDirectoryError: a round that was asked for lacks one, or no round has them all.
    """
    known = sorted({round_ for round_, _ in state.sealed if round_ > 0})
    have = [round_ for round_ in known if all((round_, table) in state.sealed for table in tables)]
    lacking = [round_ for round_ in asked if round_ not in have]
    if lacking or not have:
        which = f"round {lacking[0]}" if lacking else "no round"
        raise RunDirectoryError(
            f"{which} has {'not ' if lacking else ''}all of the finished tables {', '.join(tables)}",
            rule="only finished tables are exported",
            remedy="resume the run first, or choose another round; `bcpg-cluster status` shows what there is",
        )
    return sorted(set(asked)) or have


def shards_of(
    run_dir: RunPath, state: ManifestState, round_: int, tables: Sequence[str]
) -> Iterator[dict[str, list[Row]]]:
    """Shard by shard, the rows of each table; shard k of every table is about the same prompts."""
    return shard_by_shard(run_dir, {table: state.receipts(round_, table) for table in tables})
