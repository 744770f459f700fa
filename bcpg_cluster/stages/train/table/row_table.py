"""A round's rows, known as a whole and built one at a time."""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import overload

import numpy as np

from bcpg_cluster.records import Receipt
from bcpg_cluster.stages.train.batching import RowSize
from bcpg_cluster.stages.train.objective import Objective
from bcpg_cluster.stages.train.protocol import TrainRow
from bcpg_cluster.stages.train.table.decoded_file import read_part
from bcpg_cluster.stages.train.table.encoding import Lengths, Starts, decode_row
from bcpg_cluster.stages.train.table.row_checks import unpaired, unreferenced


@dataclass(frozen=True, slots=True)
class ReferenceFile:
    """The decoded references of a shard's rows.

    Attributes:
        made_from: checksums of the accepted files that it was made from, in order.
    """

    path: Path
    starts: Starts
    made_from: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class TableShard:
    """A shard of ``weighted``, decoded.

    Attributes:
        receipt: of the accepted file that it was made from.
        reference: ``None`` until computed.
    """

    receipt: Receipt
    path: Path
    lengths: Lengths
    starts: Starts
    reference: ReferenceFile | None = None

    def row(self, index: int) -> TrainRow:
        """Build a row of the shard. Raises as :func:`read_part`."""
        content = read_part(self.path, *self.starts[index : index + 2].tolist())
        reference = self.reference
        logprobs = None
        if reference is not None:
            logprobs = read_part(reference.path, *reference.starts[index : index + 2].tolist())
        return decode_row(content, self.lengths[index].tolist(), logprobs)


class RowTable(Sequence[TrainRow]):
    """The rows of a round on disk: each is read when it is asked for, and kept by whoever asked. A slice is a list of rows.

    In memory are 28 bytes a row, 8 more with references. All of it may be asked for; what a rank's steps do not need is never read.

    Args:
        shards: in table order; all with references or none.
    """

    def __init__(self, shards: Sequence[TableShard]) -> None:
        self.shards = tuple(shards)
        self._firsts = list(accumulate((len(shard.lengths) for shard in shards), initial=0))

    def __len__(self) -> int:
        return self._firsts[-1]

    @overload
    def __getitem__(self, index: int) -> TrainRow: ...
    @overload
    def __getitem__(self, index: slice) -> list[TrainRow]: ...
    def __getitem__(self, index: int | slice) -> TrainRow | list[TrainRow]:
        if isinstance(index, slice):
            return [self[row] for row in range(len(self))[index]]
        row = range(len(self))[index]
        shard = bisect_right(self._firsts, row) - 1
        return self.shards[shard].row(row - self._firsts[shard])

    def sizes(self) -> Sequence[RowSize]:
        """Of every row, for the step plan."""
        return RowSizes(np.concatenate([np.empty((0, 3), np.int32), *(shard.lengths for shard in self.shards)]))

    def identity(self) -> str:
        """What tells these rows and references from any others: a digest over the checksums of their accepted files."""
        digest = hashlib.sha256()
        for shard in self.shards:
            made_from = () if shard.reference is None else shard.reference.made_from
            digest.update(" ".join(("rows", shard.receipt.checksum, "reference", *made_from, "")).encode())
        return digest.hexdigest()

    def check(self, objective: Objective) -> None:
        """Look for what the objective needs; that a row has as much of everything as it has tokens was checked when it was decoded.

        Raises:
            DataError: a row has no reference, or no rival though the objective trains on pairs.
        """
        for shard, first in zip(self.shards, self._firsts, strict=False):
            if shard.reference is None and len(shard.lengths):
                raise unreferenced(first)
            if objective.rows == "pairs" and not shard.lengths[:, 2].all():
                raise unpaired(first + int(np.argmin(shard.lengths[:, 2])), objective)


class RowSizes(Sequence[RowSize]):
    """Sizes of rows by their lengths [rows, 3], each built when it is asked for."""

    def __init__(self, lengths: Lengths) -> None:
        self._lengths = lengths

    def __len__(self) -> int:
        return len(self._lengths)

    @overload
    def __getitem__(self, index: int) -> RowSize: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[RowSize]: ...
    def __getitem__(self, index: int | slice) -> RowSize | Sequence[RowSize]:
        if isinstance(index, slice):
            return RowSizes(self._lengths[index])
        prompt, response, rival = self._lengths[index].tolist()
        return RowSize((prompt + response, prompt + rival) if rival else (prompt + response,), response)
