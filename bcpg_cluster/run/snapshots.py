"""Which snapshots are kept, and clearing away those a kill left half-written."""

from __future__ import annotations

from bcpg_cluster.store.manifest import Manifest
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
    versions = sorted(v for v, record in manifest.state.snapshots.items() if record.path)  # the base has no files here
    kept = set(versions[-keep_last:])
    if scores:
        kept.add(max(scores, key=lambda version: (scores[version], version)))
    kept_paths = {record.path for version, record in manifest.state.snapshots.items() if version in kept}
    deleted = []
    for version in versions:
        record = manifest.state.snapshots[version]
        folder = manifest.run_dir / record.path
        if version not in kept and record.path not in kept_paths and folder.exists():
            remove_tree(folder)
            deleted.append(version)
    return deleted


def drop_torn_snapshots(run_dir: RunPath, manifest: Manifest) -> None:
    """Remove snapshot directories that no record counts: what a killed run left half-written."""
    counted = {record.path for record in manifest.state.snapshots.values()}
    folder = run_dir / "snapshots"
    if folder.is_dir():
        for child in folder.iterdir():
            if f"snapshots/{child.name}" not in counted:
                remove_tree(child)
