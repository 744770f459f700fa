"""Which snapshots are kept, whether they are what was written, and clearing away those a kill left half-written."""

from __future__ import annotations

from pathlib import Path

from bcpg_cluster.errors import NotFiniteError, RunDirectoryError, StoreError
from bcpg_cluster.stages.push.arrivals import VerifySnapshot
from bcpg_cluster.stages.push.file_digests import companion_faults
from bcpg_cluster.store.manifest import Manifest, ManifestState
from bcpg_cluster.store.path import RunPath
from bcpg_cluster.store.whole_files import remove_tree

_DAMAGED = ".damaged"


def keep_snapshots(manifest: Manifest, scores: dict[int, float], keep_last: int, *, measured: int) -> list[int]:
    """Delete the directories of snapshots that no rule keeps: the newest ``keep_last``, the best, the base.

    Args:
        scores: sampled test accuracy by version, where known.
        measured: the version whose round is about to be reported. Members hold it until the next one is pushed, and a run that is
            killed before the report needs it again; so a later one, which was trained meanwhile, takes no place from it.

    Returns:
        The versions whose files were deleted. Their records stay in the manifest.
    """
    manifest.check_held()
    kept = _kept(manifest.state, scores, keep_last, measured)
    deleted = []
    for version, record in sorted(manifest.state.snapshots.items()):
        folder = manifest.run_dir / record.path
        if record.path and record.path not in kept and folder.exists():
            remove_tree(folder)
            deleted.append(version)
    return deleted


def kept_paths(state: ManifestState, keep_last: int) -> set[str]:
    """The snapshots that a run has for certain, if nothing was lost. Where the newest has no report yet, the best one is not
    among them: a run that is killed may have compared it with one whose report it did not write.
    """
    scores = {round_: of.accuracy for round_, of in state.reports.items() if round_ and of.accuracy is not None}
    newest, waiting = newest_version(state), state.snapshots.get(next_measured(state))
    kept = _kept(state, scores if newest in state.reports else {}, keep_last, newest)
    return kept | {waiting.path} if waiting is not None and waiting.path else kept


def newest_version(state: ManifestState) -> int:
    """What the next round starts from; 0 is the base model."""
    return max(state.snapshots, default=0)


def next_measured(state: ManifestState) -> int:
    """The version that a run which is started again measures first, the newest where none is left. A later round may have been
    trained from it already: a version is measured meanwhile.
    """
    newest = newest_version(state)
    return next((version for version in range(newest) if version not in state.reports), newest)


def _kept(state: ManifestState, scores: dict[int, float], keep_last: int, measured: int) -> set[str]:
    """By path: a round that taught nothing has the files of an earlier one."""
    snapshots = dict(state.snapshots)  # a training in another thread may be adding one
    versions = sorted(v for v, record in snapshots.items() if record.path)  # the base has no files here
    num_later = sum(version > measured for version in versions)
    kept = versions[-(keep_last + num_later) :] + (
        [max(scores, key=lambda version: (scores[version], version))] if scores else []
    )
    return {snapshots[version].path for version in kept if version in snapshots}


def trained_in(state: ManifestState, version: int) -> int:
    """The round that trained a version's weights: one that taught nothing keeps those of an earlier one."""
    path = state.snapshots[version].path
    return min(number for number, record in state.snapshots.items() if record.path == path)


def command_to_train_again(run_dir: RunPath, state: ManifestState, version: int) -> str:
    """Makes these weights and all later ones anew: from the round that trained them, or the last before it whose start weights
    are still kept.
    """
    round_ = trained_in(state, version)
    while round_ > 1 and not (run_dir / state.snapshots[round_ - 1].path).is_dir():
        round_ -= 1
    return f"bcpg-cluster stage train --round {round_} --discard-later --run-dir {run_dir}"


def put_in_place(run_dir: Path, remade: str, path: str) -> None:
    """Give a remade snapshot the name of the damaged one, which is there under another until then."""
    target = run_dir / path
    damaged = target.with_name(target.name + _DAMAGED)
    remove_tree(damaged)
    if target.exists():
        target.rename(damaged)
    (run_dir / remade).rename(target)
    remove_tree(damaged)


def drop_torn_snapshots(run_dir: RunPath, manifest: Manifest) -> None:
    """Remove snapshot directories that no record counts: what a killed run left half-written."""
    counted = {record.path for record in manifest.state.snapshots.values()}
    folder = run_dir / "snapshots"
    if folder.is_dir():
        for path in counted - {""}:
            damaged = f"{path}{_DAMAGED}"  # killed between the two renames of ``put_in_place``
            if isinstance(run_dir, Path) and (run_dir / damaged).exists() and not (run_dir / path).exists():
                (run_dir / damaged).rename(run_dir / path)
        for child in folder.iterdir():
            if f"snapshots/{child.name}" not in counted:
                remove_tree(child)


class SnapshotDamagedError(RunDirectoryError):
    """A snapshot's files are not what was written."""


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
            SnapshotDamagedError: a file is not what was written.
            RunDirectoryError: the weights are what was written, and not finite.
        """
        record = self._manifest.state.snapshots.get(version)
        run_dir = self._manifest.run_dir
        if record is None or not record.path or record.path in self._passed or not isinstance(run_dir, Path):
            return
        again = command_to_train_again(run_dir, self._manifest.state, version)
        try:
            self._verify(str(run_dir / record.path), record.digests)
            if faults := companion_faults(str(run_dir / record.path), record.files):
                raise StoreError(f"snapshot {run_dir / record.path}: {faults[0]}")
        except NotFiniteError as error:
            raise RunDirectoryError(
                str(error),
                rule="weights are finite numbers; these were written otherwise, by a version that did not look",
                remedy=f"{again} --set train.learning_rate=..., with a smaller one",
            ) from error
        except StoreError as error:
            raise SnapshotDamagedError(
                str(error),
                rule="weights are used only if their digests are those noted when they were written",
                remedy=f"put the file back from a copy, or train these weights again: {again}",
            ) from error
        self._passed.add(record.path)
