"""Shard files: written whole or not at all, and checked when read."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa
import pyarrow.parquet as pq

from bcpg_cluster.errors import DamagedShardError, OtherSchemaError
from bcpg_cluster.records import Receipt
from bcpg_cluster.store.layout import shard_path
from bcpg_cluster.store.path import RunPath
from bcpg_cluster.store.rows import Row
from bcpg_cluster.store.schema import SCHEMA_VERSION, schema_of
from bcpg_cluster.store.whole_files import make_parents, write_whole

_READERS = 8  # files at once, each wholly in memory


def load_arrow() -> None:
    """Have Arrow load now what it otherwise loads when it first converts rows: pandas, a quarter of a second of processor time."""
    pa.array([])


def write_shard(
    run_dir: RunPath,
    *,
    table: str,
    round_: int,
    shard: int,
    attempt: str,
    rows: Sequence[Row],
    seconds: float,
    metrics: dict[str, float],
) -> Receipt:
    """Write one attempt's rows under a name of its own and return the receipt.

    The file appears under its name only when it is whole (temporary name, fsync, rename; in an
    object store one put). It counts only once the manifest
    accepts the receipt.
    """
    path = shard_path(round_, table, shard, attempt)
    target = run_dir / path
    make_parents(target)
    content = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(list(rows), schema=schema_of(table, rows)), content, compression="zstd")
    data = content.getvalue().to_pybytes()
    write_whole(target, data)
    return Receipt(
        table=table,
        round=round_,
        shard=shard,
        attempt=attempt,
        path=path,
        num_rows=len(rows),
        num_bytes=len(data),
        checksum=hashlib.sha256(data).hexdigest(),
        seconds=seconds,
        metrics=dict(metrics),
    )


def read_shard(run_dir: RunPath, receipt: Receipt) -> list[Row]:
    """The rows of an accepted shard. Raises as :func:`read_columns`."""
    rows: list[Row] = read_columns(run_dir, receipt).to_pylist()
    return rows


def read_columns(run_dir: RunPath, receipt: Receipt, columns: Sequence[str] | None = None) -> pa.Table:
    """An accepted shard as an Arrow table: those ``columns`` of it, or all.

    Raises:
        DamagedShardError: the file is gone or altered since it was accepted.
        OtherSchemaError: it is of another schema version.
    """
    table = _decoded(read_accepted(run_dir, receipt), columns)
    version = int((table.schema.metadata or {}).get(b"bcpg_schema_version", b"0"))
    if version != SCHEMA_VERSION:
        path = run_dir / receipt.path
        raise OtherSchemaError(f"{path} has schema version {version}; this program reads version {SCHEMA_VERSION}")
    return table


def read_accepted(run_dir: RunPath, receipt: Receipt) -> bytes:
    """The content of an accepted shard's file. Raises :class:`DamagedShardError`: it is gone or altered since."""
    try:
        data = (run_dir / receipt.path).read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        raise _damage(run_dir, receipt, "is in the manifest but not there") from None
    except IsADirectoryError:
        raise _damage(run_dir, receipt, "is a directory") from None
    if len(data) != receipt.num_bytes:
        raise _damage(run_dir, receipt, f"has {len(data)} bytes of {receipt.num_bytes} (checksum differs)")
    if hashlib.sha256(data).hexdigest() != receipt.checksum:
        raise _damage(run_dir, receipt, "is not the file that was accepted (checksum differs)")
    return data


def find_damaged(run_dir: RunPath, receipts: Sequence[Receipt]) -> list[DamagedShardError]:
    """Those of the shards whose files are gone or altered; every file is read, several at a time."""

    def damage(receipt: Receipt) -> DamagedShardError | None:
        try:
            data = read_accepted(run_dir, receipt)
        except DamagedShardError as error:
            return error
        num_rows = pq.read_metadata(pa.BufferReader(data)).num_rows
        if num_rows != receipt.num_rows:
            return _damage(run_dir, receipt, f"has {num_rows} rows, the manifest says {receipt.num_rows}")
        return None

    with ThreadPoolExecutor(_READERS) as readers:
        return [found for found in readers.map(damage, receipts) if found is not None]


def _damage(run_dir: RunPath, receipt: Receipt, what: str) -> DamagedShardError:
    return DamagedShardError(
        str(run_dir),
        receipt.path,
        table=receipt.table,
        round_=receipt.round,
        shard=receipt.shard,
        attempt=receipt.attempt,
        what=what,
    )


def _decoded(data: bytes, columns: Sequence[str] | None) -> pa.Table:
    """In this thread alone. ``pq.read_table`` has Arrow's threads read ahead, and the last of them to let go of ``data`` needs the
    interpreter: while it ends, that aborts the process ("terminate called without an active exception").
    """
    file = pq.ParquetFile(pa.BufferReader(data), pre_buffer=False)
    return file.read(columns=None if columns is None else list(columns), use_threads=False)


def read_table(run_dir: RunPath, receipts: Sequence[Receipt]) -> list[Row]:
    """The rows of several shards, in shard order."""
    rows: list[Row] = []
    for receipt in sorted(receipts, key=lambda r: r.shard):
        rows.extend(read_shard(run_dir, receipt))
    return rows


def shard_by_shard(
    run_dir: RunPath, receipts: Mapping[str, Sequence[Receipt]], columns: Mapping[str, Sequence[str]] | None = None
) -> Iterator[dict[str, list[Row]]]:
    """The rows of several tables of a round, one shard held at a time: shard k of every table is about the same prompts.

    Args:
        receipts: accepted shards by table; a table without a shard that another has gives no rows there.
        columns: by table, those that are read; all of a table that is not named.

    Raises:
        StoreError: see :func:`read_columns`.
    """
    by_shard: dict[int, dict[str, Receipt]] = {}
    for table, of_table in receipts.items():
        for receipt in of_table:
            by_shard.setdefault(receipt.shard, {})[table] = receipt
    for _, there in sorted(by_shard.items()):
        yield {
            table: read_columns(run_dir, there[table], (columns or {}).get(table)).to_pylist() if table in there else []
            for table in receipts
        }
