"""Sealed tables of one run counted in another: how arms share one offline set. Files are linked, not copied."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from pathlib import Path

from bcpg_cluster.records import Receipt
from bcpg_cluster.store.manifest import Manifest, ManifestState
from bcpg_cluster.store.path import local_only


def adopt_tables(
    source_dir: Path, source: ManifestState, manifest: Manifest, round_: int, tables: Iterable[str], num_shards: int
) -> None:
    """Count the first ``num_shards`` shards of each table of another run here, and seal it. What is here already stays.

    The shards keep their checksums, so a file that was changed is found when it is read, as in its own run. Where the run made
    a shard of the round again, nothing more is adopted: that could be made from the content before.
    """
    losses = manifest.state.losses
    if any(key[0] == round_ for key in losses.waiting) or any(remade.round == round_ for remade in losses.remade):
        return
    for table in tables:
        if (round_, table) in manifest.state.sealed:
            continue
        for receipt in source.receipts(round_, table)[:num_shards]:
            _link(source_dir, local_only(manifest.run_dir, "a comparison"), receipt)
            manifest.accept(receipt)
        manifest.seal(round_, table, num_shards)


def _link(source_dir: Path, run_dir: Path, receipt: Receipt) -> None:
    target = run_dir / receipt.path
    target.parent.mkdir(parents=True, exist_ok=True)
    target.unlink(missing_ok=True)  # of a process that was killed before it counted the shard
    try:
        os.link(source_dir / receipt.path, target)
    except OSError:  # another file system, or one without links
        partial = target.with_name(f".{target.name}.partial")
        shutil.copyfile(source_dir / receipt.path, partial)
        partial.replace(target)
