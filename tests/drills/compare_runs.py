"""Whether two runs hold the same: every table, every snapshot, every report, without what depends on the clock."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

from bcpg_cluster.store.manifest import ManifestState, read_manifest
from bcpg_cluster.store.shards import read_table
from tests.drills.records import Difference
from tests.reports import what_counts


def rows_that_count(run_dir: Path, state: ManifestState) -> Counter[str]:
    """Every row of every sealed table, as text, and how often it is there."""
    rows: Counter[str] = Counter()
    for (round_, table), sealed in state.sealed.items():
        receipts = state.receipts(round_, table)
        assert len(receipts) == sealed.num_shards, (
            f"round {round_}, {table}: {len(receipts)} of {sealed.num_shards} shards"
        )
        for row in read_table(run_dir, receipts):
            rows[f"{round_} {table} {json.dumps(row, sort_keys=True, default=str)}"] += 1
    return rows


def compare_runs(run_dir: Path, calm: Path) -> Difference:
    """How ``run_dir`` differs from the undisturbed run.

    Raises:
        StoreError: a shard that counts is damaged.
        RunDirectoryError: the manifest is.
    """
    state, calm_state = read_manifest(run_dir), read_manifest(calm)
    found, wanted = rows_that_count(run_dir, state), rows_that_count(calm, calm_state)
    for other, into in ((state, found), (calm_state, wanted)):
        for version, snapshot in other.snapshots.items():
            into[f"snapshot {version} {sorted(snapshot.digests.items())}"] += 1
        for round_, report in other.reports.items():
            into[f"report {round_} {json.dumps(what_counts(report, faults=False), sort_keys=True)}"] += 1
    twice = sum(max(0, number - wanted[row]) for row, number in found.items() if row in wanted)
    invented = sum(number for row, number in found.items() if row not in wanted)
    return Difference(lost=sum((wanted - found).values()), duplicated=twice, invented=invented)
