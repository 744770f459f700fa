"""Snapshots: whether the weights are those whose digests the manifest has."""

from __future__ import annotations

from pathlib import Path

from bcpg_cluster.errors import StoreError
from bcpg_cluster.run.build.engines import snapshot_verifier
from bcpg_cluster.run.snapshots import kept_versions
from bcpg_cluster.run.soundness.faults import Fate, Fault, Subject
from bcpg_cluster.stages.push.canaries import CANARIES, read_canaries
from bcpg_cluster.store.manifest import SnapshotRecord


def snapshot_faults(subject: Subject) -> list[Fault]:
    """One for every snapshot that is damaged, or gone though a rule keeps it. Reads all weights; none in an object store."""
    if not isinstance(subject.run_dir, Path) or subject.config is None:
        return []
    found, seen = [], set[str]()
    kept = kept_versions(subject.state, subject.config.snapshots.keep_last)
    for version, record in sorted(subject.state.snapshots.items()):
        if record.path and record.path not in seen:
            seen.add(record.path)
            what = _what_is_wrong(subject.run_dir, record, subject.config.train.kind, is_kept=version in kept)
            if what is not None:
                found.append(Fault(*what, *_fate(subject, version)))
    return found


def _what_is_wrong(run_dir: Path, record: SnapshotRecord, kind: str, *, is_kept: bool) -> tuple[str, str] | None:
    """The path, and what is wrong there."""
    folder = run_dir / record.path
    if not folder.is_dir():
        return (record.path, "is in the manifest but not there") if is_kept else None
    try:
        snapshot_verifier(kind)(str(folder), record.digests)
    except StoreError as error:
        return record.path, str(error)
    try:
        has_canaries = bool(read_canaries(folder))
    except (ValueError, TypeError, AttributeError) as error:
        return f"{record.path}/{CANARIES}", f"cannot be read: {error}"
    if record.training is not None and not has_canaries:
        return f"{record.path}/{CANARIES}", "is not there, or empty"
    return None


def _fate(subject: Subject, version: int) -> tuple[Fate, str]:
    state = subject.state
    is_newest = version == max(state.snapshots)
    round_ = version
    while round_ > 1 and not (subject.run_dir / state.snapshots[round_ - 1].path).is_dir():
        round_ -= 1
    again = f"bcpg-cluster stage train --round {round_} --discard-later --run-dir {subject.run_dir}"
    needs = "the next round starts from it" if is_newest else "no later round starts from it; `export` and `rerun` may"
    return Fate.LOST, f"{needs}. Put it back from a copy, or train these weights and all later ones again: `{again}`"
