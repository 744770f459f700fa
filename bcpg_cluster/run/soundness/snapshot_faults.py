"""Snapshots and step checkpoints: whether they are what was written, by the digests that the manifest has."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from bcpg_cluster.errors import NotFiniteError, StoreError
from bcpg_cluster.run.build.engines import snapshot_verifier
from bcpg_cluster.run.snapshots import command_to_train_again, kept_paths, newest_version, next_measured
from bcpg_cluster.run.soundness.faults import Fate, Fault, Subject
from bcpg_cluster.stages.push.canaries import CANARIES, read_canaries
from bcpg_cluster.stages.push.file_digests import companion_faults
from bcpg_cluster.stages.train.step_checkpoints.record import check_step_checkpoint, checkpoint_name
from bcpg_cluster.store.layout import checkpoint_path
from bcpg_cluster.store.manifest import SnapshotRecord


def snapshot_faults(subject: Subject) -> list[Fault]:
    """One for every snapshot that is damaged, or gone though a rule keeps it. Reads all weights; none in an object store."""
    if not isinstance(subject.run_dir, Path) or subject.config is None:
        return []
    found, seen = [], set[str]()
    kept = kept_paths(subject.state, subject.config.snapshots.keep_last)
    for version, record in sorted(subject.state.snapshots.items()):
        if record.path and record.path not in seen:
            seen.add(record.path)
            try:
                what = _what_is_wrong(subject.run_dir, record, subject.config.train.kind, is_kept=record.path in kept)
            except NotFiniteError as error:
                again = command_to_train_again(subject.run_dir, subject.state, version)
                follows = f"they were written so; train them again with another learning rate: `{again}`"
                found.append(Fault(record.path, str(error), Fate.LOST, follows))
                continue
            if what is not None:
                found.append(Fault(*what, *_fate(subject, version)))
    return found


def _what_is_wrong(run_dir: Path, record: SnapshotRecord, kind: str, *, is_kept: bool) -> tuple[str, str] | None:
    """The path, and what is wrong there. Raises :class:`NotFiniteError`: the weights are what was written, and no numbers."""
    folder = run_dir / record.path
    if not folder.is_dir():
        return (record.path, "is in the manifest but not there") if is_kept else None
    try:
        snapshot_verifier(kind)(str(folder), record.digests)
    except NotFiniteError:
        raise
    except StoreError as error:
        return record.path, str(error)
    for fault in companion_faults(str(folder), record.files):
        return f"{record.path}/{fault.file}", fault.why
    try:
        has_canaries = bool(read_canaries(folder))
    except (ValueError, TypeError, AttributeError) as error:
        return f"{record.path}/{CANARIES}", f"cannot be read: {error}"
    if record.training is not None and not has_canaries:
        return f"{record.path}/{CANARIES}", "is not there, or empty"
    return None


def _fate(subject: Subject, version: int) -> tuple[Fate, str]:
    state = subject.state
    path, waiting = state.snapshots[version].path, state.snapshots.get(next_measured(state))
    remade = "`iterate` trains it again, and takes it if its digests are these"
    if state.snapshots[newest_version(state)].path == path:
        needs = f"the next round starts from it: {remade}"
    elif waiting is not None and waiting.path == path:
        needs = f"it is not measured yet: {remade}"
    else:
        needs = "no later round starts from it; exports may"
    again = command_to_train_again(subject.run_dir, state, version)
    return Fate.LOST, f"{needs}. Or put it back from a copy, or train these weights and all later ones anew: `{again}`"


def checkpoint_faults(subject: Subject) -> Iterator[Fault]:
    """One for every file of a step checkpoint that is damaged; only where the run is in a directory."""
    for round_, checkpoints in sorted(subject.state.step_checkpoints.items()):
        if not isinstance(subject.run_dir, Path) or round_ in subject.state.snapshots:
            continue
        tries = sorted((subject.run_dir / checkpoint_path(round_)).glob("[0-9]*"))
        for vouched in checkpoints:
            name = checkpoint_name(vouched.num_steps)
            folder = (tries[-1] if tries else subject.run_dir / checkpoint_path(round_)) / name
            for fault in check_step_checkpoint(folder, vouched):
                path = (folder / fault.file).relative_to(subject.run_dir).as_posix()
                yield Fault(
                    path, fault.why, Fate.REMADE, "training resumes from the step checkpoint before, or from step 0"
                )
