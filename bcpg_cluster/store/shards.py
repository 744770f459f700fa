"""Shard files: written whole or not at all, and checked when read."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import pyarrow as pa
import pyarrow.parquet as pq

from bcpg_cluster.errors import OtherSchemaError, StoreError
from bcpg_cluster.records import Receipt
from bcpg_cluster.store.layout import shard_path
from bcpg_cluster.store.path import RunPath
from bcpg_cluster.store.rows import Row
from bcpg_cluster.store.schema import SCHEMA_VERSION, schema_of
from bcpg_cluster.store.whole_files import make_parents, write_whole


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
    pq.write_table(pa.Table.from_pylist(list(rows), schema=schema_of(table)), content, compression="zstd")
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
        StoreError: the file is gone or altered since it was accepted; :class:`OtherSchemaError`: it is of another schema version.
    """
    path = run_dir / receipt.path
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise StoreError(f"{path} is in the manifest but not there") from None
    if hashlib.sha256(data).hexdigest() != receipt.checksum:
        raise StoreError(f"{path} is not the file that was accepted (checksum differs)")
    table = _decoded(data, columns)
    version = int((table.schema.metadata or {}).get(b"bcpg_schema_version", b"0"))
    if version != SCHEMA_VERSION:
        raise OtherSchemaError(f"{path} has schema version {version}; this program reads version {SCHEMA_VERSION}")
    return table


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
