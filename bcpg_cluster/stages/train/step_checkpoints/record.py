"""A step checkpoint on disk: files, and a record of them that is written last. The manifest has the record's digest.

::

    rounds/0001/checkpoint/0001/step-000020/
      <the trainer's files>
      checkpoint.json     what every file holds (sha256), the training it belongs to, the reports of the steps done

Nothing of it is unpickled before the files equal the record, and the record equals the digest that the driver noted.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from bcpg_cluster.errors import EngineError, StoreError
from bcpg_cluster.records import StepCheckpoint
from bcpg_cluster.stages.push.file_digests import FileDigest, FileFault, file_faults, raise_if_exhausted
from bcpg_cluster.stages.train.protocol import StepReport
from bcpg_cluster.store.whole_files import remove_tree, sync_directory, write_whole

RECORD = "checkpoint.json"
_FORMAT = 1


@dataclass(frozen=True, slots=True)
class CheckpointFile:
    """A file of a step checkpoint.

    Attributes:
        rank: the only rank that reads it; ``None`` where all do.
    """

    digest: FileDigest
    rank: int | None = None


@dataclass(frozen=True, slots=True)
class CheckpointRecord:
    """What a step checkpoint holds.

    Attributes:
        fingerprint: of the training (``stages.train.step_plan``); no other may resume from it.
        files: by their path in the checkpoint's directory.
    """

    fingerprint: str
    reports: tuple[StepReport, ...]
    files: Mapping[str, CheckpointFile]

    def of_rank(self, rank: int | None) -> dict[str, FileDigest]:
        """What a rank reads; ``None`` is all files."""
        return {name: file.digest for name, file in self.files.items() if rank is None or file.rank in (None, rank)}


def checkpoint_name(num_steps: int) -> str:
    """The directory of a step checkpoint."""
    return f"step-{num_steps:06d}"


def write_record(directory: Path, record: CheckpointRecord) -> StepCheckpoint:
    """Write the record into a checkpoint whose files are on disk; returns when it cannot be lost by a power cut.

    Raises:
        OSError: it could not be written.
    """
    files = {name: {**asdict(file.digest), "rank": file.rank} for name, file in record.files.items()}
    reports = [asdict(report) for report in record.reports]
    content = {"format": _FORMAT, "fingerprint": record.fingerprint, "files": files, "reports": reports}
    text = json.dumps(content).encode()
    write_whole(directory / RECORD, text)
    for folder in (directory, directory.parent):
        sync_directory(folder)
    return StepCheckpoint(len(record.reports), hashlib.sha256(text).hexdigest())


def read_record(directory: Path, vouched: StepCheckpoint) -> CheckpointRecord:
    """The record of a step checkpoint.

    Raises:
        StoreError: it is not there, or not the one that was vouched for.
    """
    try:
        text = (directory / RECORD).read_bytes()
    except FileNotFoundError:
        raise StoreError("is not there") from None
    except OSError as error:
        raise_if_exhausted(error)
        raise StoreError(f"cannot be read: {error.strerror or error}") from error
    if hashlib.sha256(text).hexdigest() != vouched.digest:
        raise StoreError("is not what was written (its sha256 differs)")
    content = json.loads(text)
    if content["format"] != _FORMAT:
        raise StoreError(f"has format {content['format']}, this version reads {_FORMAT}")
    files = {
        name: CheckpointFile(FileDigest(file["num_bytes"], file["sha256"]), file["rank"])
        for name, file in content["files"].items()
    }
    reports = tuple(StepReport(**report) for report in content["reports"])
    return CheckpointRecord(content["fingerprint"], reports, files)


def open_checkpoint(checkpoint_dir: Path, resume: StepCheckpoint, fingerprint: str) -> CheckpointRecord | None:
    """The record of a step checkpoint to resume from; ``None`` where it is another training's.

    Raises:
        EngineError: it was altered since it was checked.
    """
    directory = checkpoint_dir / checkpoint_name(resume.num_steps)
    try:
        record = read_record(directory, resume)
    except StoreError as error:
        raise EngineError(f"{directory / RECORD} {error}") from error
    return record if record.fingerprint == fingerprint else None


def check_step_checkpoint(directory: Path, vouched: StepCheckpoint, rank: int | None = None) -> tuple[FileFault, ...]:
    """What is wrong with a step checkpoint; nothing when every file is what was written. Nothing is unpickled.

    Args:
        directory: of this checkpoint (``.../step-000020``).
        vouched: what the manifest says of it.
        rank: look only at what this rank reads; ``None`` looks at all files.
    """
    try:
        record = read_record(directory, vouched)
    except StoreError as error:
        return (FileFault(RECORD, str(error)),)
    return file_faults(directory, record.of_rank(rank))


def keep_only(checkpoint_dir: Path, names: Collection[str]) -> None:
    """Remove all other checkpoints, and whatever a killed try left half-written."""
    if checkpoint_dir.is_dir():
        for entry in checkpoint_dir.iterdir():
            if entry.name not in names:
                remove_tree(entry) if entry.is_dir() else entry.unlink(missing_ok=True)
