"""Check a whole run: every file against what the manifest says of it. Reads only."""

from __future__ import annotations

from pathlib import Path

from bcpg_cluster.config.run import Config
from bcpg_cluster.errors import RunDirectoryError, UserError
from bcpg_cluster.run.directory import load_run_config
from bcpg_cluster.run.soundness.faults import CheckedRun, Subject
from bcpg_cluster.run.soundness.file_faults import file_faults, manifest_faults, strays
from bcpg_cluster.run.soundness.shard_faults import accepted, shard_faults
from bcpg_cluster.run.soundness.snapshot_faults import checkpoint_faults, snapshot_faults
from bcpg_cluster.store.journal import lock_holder
from bcpg_cluster.store.journals.mending import read_damaged_manifest
from bcpg_cluster.store.manifest import ManifestState, damaged_error
from bcpg_cluster.store.path import RunPath


def check_run(run_dir: RunPath) -> CheckedRun:
    """Check a run. Nothing is changed, also where another process works on it.

    Raises:
        RunDirectoryError: it is no run, or was made by a newer version.
    """
    subject = read_subject(run_dir)
    holder = lock_holder(run_dir)
    return CheckedRun(
        run_dir,
        holder,
        num_shards=len(accepted(subject)),
        num_snapshots=len({record.path for record in subject.state.snapshots.values() if record.path}),
        faults=(
            *manifest_faults(subject),
            *shard_faults(subject),
            *snapshot_faults(subject),
            *checkpoint_faults(subject),
            *file_faults(subject),
        ),
        strays=tuple(strays(subject)),
        notes=tuple(_notes(subject)),
    )


def read_subject(run_dir: RunPath) -> Subject:
    """A run as it stands. Raises as :func:`check_run`."""
    found = read_damaged_manifest(run_dir)
    if found.state.created is None and found.damages:
        raise damaged_error(run_dir, found.state, found.damages[0])
    if found.state.created is None:
        raise RunDirectoryError(
            f"{run_dir} is not a run: its manifest does not say which",
            rule="--run-dir names a directory made by `bcpg-cluster iterate`",
            remedy="see runs/ for the runs here",
        )
    return Subject(run_dir, found.state, found.damages, _config(run_dir, found.state))


def _config(run_dir: RunPath, state: ManifestState) -> Config | None:
    try:
        return load_run_config(run_dir, state)
    except UserError:
        return None


def _notes(subject: Subject) -> list[str]:
    notes = []
    if subject.config is None:
        notes.append("snapshots were not checked: config.yaml does not say what reads them")
    elif not isinstance(subject.run_dir, Path):
        notes.append(
            "snapshots in an object store are not read here: whoever fetches one compares it with its digests. Strays "
            "are not looked for either"
        )
    if subject.state.losses.waiting:
        names = [
            f"{table} round {round_} shard {shard}" for round_, table, shard in sorted(subject.state.losses.waiting)
        ]
        notes.append(f"let go of before, and made again by the next `iterate`: {', '.join(names)}")
    return notes
