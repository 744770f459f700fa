"""How the rows of a shard lie in a decoded file, one after the other, so that one is read without the rest.

Little-endian, without padding. The file of a shard's rows begins with their number (int64) and their lengths (int32 [rows, 3]:
prompt, response, rival). Of each row follow its numbers (advantage and group mean float64, reward float32, group size int32), the
ids of prompt, response and rival (int32), the response's weights (float32) and mined flags (a byte each). The file of references
has of each row, in the same order, lp_ref of the response and of the rival (float32). Every number is as wide as in its table, so
a row that is read is the row that was written, bit for bit.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from bcpg_cluster.errors import StoreError
from bcpg_cluster.stages.train.protocol import ReferenceLogprobs, TrainRow
from bcpg_cluster.stages.train.table.row_checks import check_response, check_rival
from bcpg_cluster.store.rows import RowKey, row_keys

Lengths = npt.NDArray[np.int32]
"""[rows, 3]: tokens of prompt, response and rival."""

Starts = npt.NDArray[np.int64]
"""[rows + 1]: where each row begins in its file, and where the last one ends."""

KEY_COLUMNS = ("round", "prompt_id", "sample", "rival_prompt_id", "rival_sample")
ROW_COLUMNS = (
    "prompt_token_ids", "token_ids", "token_weights", "mined", "rival_token_ids",
    "advantage", "reward", "group_mean", "group_size",
)  # fmt: skip
_NUMBERS = struct.Struct("<ddfi")
_COUNT = struct.Struct("<q")


@dataclass(frozen=True, slots=True)
class _Lists:
    """A column of lists.

    Attributes:
        values: of all rows.
        starts: [rows], where each row's begin in ``values``.
        counts: [rows], how many each row has; 0 where it has no list.
    """

    values: npt.NDArray[np.generic]
    starts: npt.NDArray[np.int64]
    counts: npt.NDArray[np.int64]

    @classmethod
    def of(cls, table: pa.Table, column: str, dtype: str) -> _Lists:
        """Raises StoreError: a value is missing."""
        lists = table.column(column).combine_chunks()
        _refuse_missing(lists.values, column)
        values = lists.values.to_numpy(zero_copy_only=False).astype(dtype, copy=False)
        bounds = lists.offsets.to_numpy().astype(np.int64)
        counts = np.where(lists.is_valid().to_numpy(zero_copy_only=False), np.diff(bounds), 0)
        return cls(values, bounds[:-1], counts)

    def bytes_of(self, row: int) -> bytes:
        """The row's values."""
        start = int(self.starts[row])
        return self.values[start : start + int(self.counts[row])].tobytes()


def _numbers(table: pa.Table, column: str) -> list[float]:
    numbers = table.column(column)
    _refuse_missing(numbers, column)
    found: list[float] = numbers.to_pylist()
    return found


def _refuse_missing(values: pa.Array | pa.ChunkedArray, column: str) -> None:
    if values.null_count:
        raise StoreError(f"column {column} lacks {values.null_count} of its values")


def encode_rows(table: pa.Table, first: int) -> bytes:
    """The decoded file of a shard of ``weighted``.

    Args:
        table: its :data:`ROW_COLUMNS`.
        first: the number of its first row in the whole table, for messages.

    Raises:
        DataError: a row has not as many weights or mined flags as response tokens, or none of them.
        StoreError: a value is missing.
    """
    prompts, responses, rivals = (
        _Lists.of(table, column, "<i4") for column in ("prompt_token_ids", "token_ids", "rival_token_ids")
    )
    weights, mined = _Lists.of(table, "token_weights", "<f4"), _Lists.of(table, "mined", "|b1")
    uneven = (weights.counts != responses.counts) | (mined.counts != responses.counts) | (responses.counts == 0)
    for row in np.flatnonzero(uneven)[:1].tolist():
        found = {"tokens": responses, "weights": weights, "mined flags": mined}
        check_response(first + row, {name: int(lists.counts[row]) for name, lists in found.items()})
    lengths = np.stack([prompts.counts, responses.counts, rivals.counts], axis=1).astype("<i4")
    advantages, means, rewards, sizes = (
        _numbers(table, column) for column in ("advantage", "group_mean", "reward", "group_size")
    )
    parts = [_COUNT.pack(table.num_rows), lengths.tobytes()]
    for row in range(table.num_rows):
        parts.append(_NUMBERS.pack(advantages[row], means[row], rewards[row], sizes[row]))
        parts.extend(lists.bytes_of(row) for lists in (prompts, responses, rivals, weights, mined))
    return b"".join(parts)


def read_lengths(content: bytes) -> Lengths:
    """The lengths at the beginning of a decoded file of rows, as an array of its own."""
    (count,) = _COUNT.unpack_from(content)
    return np.frombuffer(content, "<i4", 3 * count, _COUNT.size).reshape(count, 3).copy()


def row_starts(lengths: Lengths) -> Starts:
    """Where rows of these lengths lie in their file."""
    prompt, response, rival = lengths.astype(np.int64).T
    return _running(_COUNT.size + lengths.nbytes, _NUMBERS.size + 4 * (prompt + response + rival) + 5 * response)


def reference_starts(lengths: Lengths) -> Starts:
    """Where the references of rows of these lengths lie in theirs."""
    return _running(0, 4 * lengths[:, 1:].sum(axis=1, dtype=np.int64))


def _running(first: int, sizes: npt.NDArray[np.int64]) -> Starts:
    return np.concatenate([[first], first + np.cumsum(sizes)]).astype(np.int64)


def decode_row(content: bytes, lengths: Sequence[int], reference: bytes | None) -> TrainRow:
    """A row from its bytes, and lp_ref from its reference's."""
    prompt, response, rival = lengths
    advantage, group_mean, reward, group_size = _NUMBERS.unpack_from(content)
    ids = np.frombuffer(content, "<i4", prompt + response + rival, _NUMBERS.size).tolist()
    after = _NUMBERS.size + 4 * len(ids)
    weights = np.frombuffer(content, "<f4", response, after).tolist()
    mined = np.frombuffer(content, "|b1", response, after + 4 * response).tolist()
    logprobs = None
    if reference is not None:
        values = np.frombuffer(reference, "<f4").tolist()
        logprobs = ReferenceLogprobs(tuple(values[:response]), tuple(values[response:]))
    return TrainRow(
        tuple(ids[:prompt]),
        tuple(ids[prompt : prompt + response]),
        tuple(weights),
        advantage,
        reward,
        group_mean,
        group_size,
        tuple(mined),
        tuple(ids[prompt + response :]),
        logprobs,
    )


def encode_reference(keys: pa.Table, lengths: Lengths, found: Iterable[pa.Table], first: int) -> bytes:
    """The decoded file of the references of a shard of ``weighted``.

    Args:
        keys: the :data:`KEY_COLUMNS` of its rows.
        lengths: of its rows.
        found: parts of ``reference`` that have its rows, whatever else they have and in whatever order.
        first: the number of its first row in the whole table, for messages.

    Raises:
        StoreError: a row has no reference.
        DataError: a row has another number of reference log-probs than of tokens.
    """
    wanted = row_keys(keys.to_pylist())
    names = frozenset(wanted)
    places: dict[RowKey, tuple[_Lists, _Lists, int]] = {}
    for part in found:
        own, rival = (_Lists.of(part, f"{prefix}reference_logprobs", "<f4") for prefix in ("", "rival_"))
        for place, key in enumerate(row_keys(part.select(KEY_COLUMNS).to_pylist())):
            if key in names:
                places[key] = (own, rival, place)
    missing = [key for key in wanted if key not in places]
    if missing:
        raise StoreError(
            f"{len(missing)} of the {len(wanted)} rows from row {first} on have no reference log-probs, e.g. {missing[0]}"
        )
    parts = []
    for row, (own, rival, place) in enumerate(places[key] for key in wanted):
        check_response(first + row, {"tokens": int(lengths[row, 1]), "reference log-probs": int(own.counts[place])})
        check_rival(first + row, int(lengths[row, 2]), int(rival.counts[place]))
        parts += [own.bytes_of(place), rival.bytes_of(place)]
    return b"".join(parts)
