"""Which snapshots are kept, whether they are what was written, and clearing away those a kill left half-written."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from bcpg_cluster.errors import RunDirectoryError, StoreError
from bcpg_cluster.stages.push.arrivals import VerifySnapshot
from bcpg_cluster.store.manifest import Manifest, ManifestState
from bcpg_cluster.store.path import RunPath
from bcpg_cluster.store.whole_files import remove_tree


def keep_snapshots(manifest: Manifest, scores: dict[int, float], keep_last: int) -> list[int]:
    """Delete the directories of snapshots that no rule keeps: the newest ``keep_last``, the best, the base.

    Args:
        scores: sampled test accuracy by version, where known.

    Returns:
        The versions whose files were deleted. Their records stay in the manifest.
    """
    manifest.check_held()
    kept = _kept(manifest.state, scores, keep_last)
    kept_paths = {record.path for version, record in manifest.state.snapshots.items() if version in kept}
    deleted = []
    for version, record in sorted(manifest.state.snapshots.items()):
        folder = manifest.run_dir / record.path
        if record.path and record.path not in kept_paths and folder.exists():
            remove_tree(folder)
            deleted.append(version)
    return deleted


def kept_versions(state: ManifestState, keep_last: int) -> set[int]:
    """The versions whose files a run has now, if nothing was lost: after each round those that no rule kept were deleted."""
    scores = {round_: of.accuracy for round_, of in state.reports.items() if round_ and of.accuracy is not None}
    later = {version for version in state.snapshots if version not in state.reports}
    reported = replace(state, snapshots={v: record for v, record in state.snapshots.items() if v in state.reports})
    return _kept(reported, scores, keep_last) | later


def _kept(state: ManifestState, scores: dict[int, float], keep_last: int) -> set[int]:
    versions = sorted(v for v, record in state.snapshots.items() if record.path)  # the base has no files here
    kept = set(versions[-keep_last:])
    return kept | {max(scores, key=lambda version: (scores[version], version))} if scores else kept


def drop_torn_snapshots(run_dir: RunPath, manifest: Manifest) -> None:
    """Remove snapshot directories that no record counts: what a killed run left half-written."""
    counted = {record.path for record in manifest.state.snapshots.values()}
    folder = run_dir / "snapshots"
    if folder.is_dir():
        for child in folder.iterdir():
            if f"snapshots/{child.name}" not in counted:
                remove_tree(child)


class SnapshotCheck:
    """Compares a run's snapshots with the digests in its manifest, each once in a process, before anything starts from it.

    A snapshot in an object store is not fetched for this: whoever loads it checks the copy of its own machine.
    """

    def __init__(self, manifest: Manifest, verify: VerifySnapshot) -> None:
        self._manifest, self._verify = manifest, verify
        self._passed: set[str] = set()

    def __call__(self, version: int) -> None:
        """Check a version; one without files of its own has nothing to compare.

        Raises:
            RunDirectoryError: a file is not what was written.
        """
        record = self._manifest.state.snapshots.get(version)
        run_dir = self._manifest.run_dir
        if record is None or not record.path or record.path in self._passed or not isinstance(run_dir, Path):
            return
        try:
            self._verify(str(run_dir / record.path), record.digests)
        except StoreError as error:
            again = f"bcpg-cluster stage train --round {self._round_to_repeat(record.path)} --discard-later --run-dir {run_dir}"
            raise RunDirectoryError(
                str(error),
                rule="weights are used only if their digests are those noted when they were written",
                remedy=f"put the file back from a copy, or train these weights again: {again}",
            ) from error
        self._passed.add(record.path)

    def _round_to_repeat(self, path: str) -> int:
        """The round that trained these weights (one that taught nothing keeps those of an earlier one), or the last before it
        whose start weights are still kept.
        """
        snapshots = self._manifest.state.snapshots
        round_ = min(version for version, record in snapshots.items() if record.path == path)
        while round_ > 1 and not (self._manifest.run_dir / snapshots[round_ - 1].path).is_dir():
            round_ -= 1
        return round_
