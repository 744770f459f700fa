"""From the receipts of a round's tables to its rows: each shard is decoded once a machine, one at a time."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import TypeVar

from bcpg_cluster.cluster.liveness.rank_progress import ProgressReporter
from bcpg_cluster.records import Receipt
from bcpg_cluster.stages.train.table.decoded_file import decoded_content
from bcpg_cluster.stages.train.table.encoding import (
    KEY_COLUMNS,
    ROW_COLUMNS,
    encode_reference,
    encode_rows,
    read_lengths,
    reference_starts,
    row_starts,
)
from bcpg_cluster.stages.train.table.row_table import ReferenceFile, RowTable, TableShard
from bcpg_cluster.store.path import RunPath
from bcpg_cluster.store.shards import read_columns

RANKS = "ranks"
"""The metric of a part of ``reference`` that says how many parts its shard has; parts of earlier programs lack it."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class TableOpener:
    """Opens a round's rows for one rank of a group.

    Attributes:
        run_dir: where the tables lie.
        scratch: the directory of decoded files, on this machine or shared with others.
        progress: what it tells of every shard.
    """

    run_dir: RunPath
    scratch: Path
    rank: int
    world_size: int
    progress: ProgressReporter

    def rows(self, weighted: Sequence[Receipt]) -> RowTable:
        """The rows of the sealed table ``weighted``, without references.

        Raises:
            DataError: a row has not as many weights or mined flags as response tokens, or none of them.
            DamagedShardError: a shard is gone or altered since it was accepted.
            RunDirectoryError: the disk does not take the decoded files.
        """
        receipts = sorted(weighted, key=lambda receipt: receipt.shard)
        firsts = accumulate((receipt.num_rows for receipt in receipts), initial=0)
        return RowTable(self._each("reading rows", [*zip(receipts, firsts, strict=False)], self._decode))

    def _decode(self, numbered: tuple[Receipt, int]) -> TableShard:
        receipt, first = numbered

        def make() -> bytes:
            return encode_rows(read_columns(self.run_dir, receipt, ROW_COLUMNS), first)

        path = self.scratch / f"{receipt.checksum}.rows"
        lengths = read_lengths(decoded_content(path, make))
        return TableShard(receipt, path, lengths, row_starts(lengths))

    def with_reference(self, table: RowTable, reference: Sequence[Receipt]) -> RowTable:
        """The rows with their references from the sealed table ``reference``.

        Raises:
            StoreError: a row has no reference.
            DataError: a row has another number of reference log-probs than of tokens.
            DamagedShardError, RunDirectoryError: as :meth:`rows`.
        """
        parts = _parts_by_shard(table, reference)
        firsts = accumulate((len(shard.lengths) for shard in table.shards), initial=0)
        join = partial(self._join, parts=parts)
        return RowTable(self._each("reading reference log-probs", [*zip(table.shards, firsts, strict=False)], join))

    def _join(self, numbered: tuple[TableShard, int], parts: dict[int, list[Receipt]]) -> TableShard:
        shard, first = numbered
        receipts = parts.get(shard.receipt.shard, [])

        def make() -> bytes:
            keys = read_columns(self.run_dir, shard.receipt, KEY_COLUMNS)
            found = (read_columns(self.run_dir, receipt) for receipt in receipts)
            return encode_reference(keys, shard.lengths, found, first)

        made_from = tuple(receipt.checksum for receipt in receipts)
        name = hashlib.sha256(" ".join((shard.receipt.checksum, *made_from)).encode()).hexdigest()
        path = self.scratch / f"{name}.reference"
        decoded_content(path, make)
        return replace(shard, reference=ReferenceFile(path, reference_starts(shard.lengths), made_from))

    def _each(self, doing: str, pieces: Sequence[T], open_one: Callable[[T], TableShard]) -> list[TableShard]:
        """Every rank begins with other pieces, so ranks of one machine share the decoding."""
        found: dict[int, TableShard] = {}
        begin = self.rank * len(pieces) // self.world_size
        for number in (*range(begin, len(pieces)), *range(begin)):
            self.progress.begin(doing, f"shard {len(found) + 1} of {len(pieces)}")
            found[number] = open_one(pieces[number])
        return [shard for _, shard in sorted(found.items())]


def _parts_by_shard(table: RowTable, reference: Sequence[Receipt]) -> dict[int, list[Receipt]]:
    """The parts of ``reference`` that may have rows of a shard, by its number. Where parts were cut by rank alone, as earlier
    programs did, these are all.
    """
    receipts = sorted(reference, key=lambda receipt: receipt.shard)
    ranks = {receipt.metrics.get(RANKS) for receipt in receipts}
    if len(ranks) != 1 or None in ranks:
        return {shard.receipt.shard: receipts for shard in table.shards}
    (num_ranks,) = ranks
    parts: dict[int, list[Receipt]] = {}
    for receipt in receipts:
        parts.setdefault(receipt.shard // int(num_ranks or 1), []).append(receipt)
    return parts
