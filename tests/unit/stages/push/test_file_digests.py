"""stages/push/file_digests.py: a process that lacks handles says nothing of the files it cannot open."""

from __future__ import annotations

import errno
import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import torch

from bcpg_cluster.errors import RunDirectoryError
from bcpg_cluster.records import StepCheckpoint
from bcpg_cluster.stages.push.file_digests import companion_faults, digest_file, file_faults, raise_if_exhausted
from bcpg_cluster.stages.push.snapshot import verify_snapshot
from bcpg_cluster.stages.train.loading.weight_files import WeightFiles
from bcpg_cluster.stages.train.step_checkpoints.record import RECORD, check_step_checkpoint
from bcpg_cluster.stages.train.step_checkpoints.writing import save_digested
from bcpg_cluster.stages.train.table.decoded_file import decoded_content
from tests.snapshots import snapshot_of


@contextmanager
def no_handles(but: int = 0) -> Iterator[None]:
    """The process has as many files open as it may, or could open a few more."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(
        resource.RLIMIT_NOFILE, (64 + max(int(path.name) for path in Path("/proc/self/fd").iterdir()), hard)
    )
    taken = []
    try:
        with suppress(OSError):
            while True:
                taken.append(os.open(os.devnull, os.O_RDONLY))
        for _ in range(but):
            os.close(taken.pop())
        yield
    finally:
        for number in taken:
            os.close(number)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.fixture
def snapshot(tmp_path: Path) -> tuple[Path, dict[str, str]]:
    base, made = tmp_path / "base", tmp_path / "made"
    base.mkdir()
    (base / "config.json").write_text("{}")
    return made, dict(snapshot_of(str(made), str(base), [("a", torch.zeros(3))]).stored)


def test_a_snapshot_is_not_called_damaged(snapshot: tuple[Path, dict[str, str]]) -> None:
    path, digests = snapshot
    of_config = digest_file(path / "config.json")
    (path / RECORD).write_text("{}")
    for look in (
        lambda: verify_snapshot(str(path), digests),
        lambda: verify_snapshot(str(path)),
        lambda: check_step_checkpoint(path, StepCheckpoint(1, "0" * 64)),
        lambda: companion_faults(str(path), {"config.json": of_config.sha256}),
        lambda: file_faults(path, {"config.json": of_config}),
    ):
        with no_handles(), pytest.raises(OSError) as caught:
            look()
        assert caught.value.errno == errno.EMFILE


@pytest.mark.parametrize("but", [0, 1])
def test_weights_that_cannot_be_opened_for_want_of_handles_are_neither_gone_nor_torn(
    snapshot: tuple[Path, dict[str, str]], but: int
) -> None:
    """safetensors opens a file twice, and says that it is not there."""
    path, digests = snapshot
    weights = WeightFiles(str(path))
    for read in (lambda: weights.get("a"), lambda: verify_snapshot(str(path), digests)):
        with no_handles(but), pytest.raises(OSError) as caught:
            read()
        assert caught.value.errno == errno.EMFILE
    assert verify_snapshot(str(path), digests) == digests


def test_a_process_without_handles_says_nothing_of_a_model(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors.index.json").write_text('{"weight_map": {}}')
    with no_handles(), pytest.raises(OSError) as caught:
        WeightFiles(str(tmp_path))
    assert caught.value.errno == errno.EMFILE


def test_what_cannot_be_written_for_want_of_handles_needs_no_room(
    snapshot: tuple[Path, dict[str, str]], tmp_path: Path
) -> None:
    decoded, state = tmp_path / "decoded/a.rows", tmp_path / "state.pt"
    for write in (
        lambda: decoded_content(decoded, lambda: b"rows"),
        lambda: snapshot_of(str(snapshot[0]), str(tmp_path / "base"), [("a", torch.ones(3))]),
        lambda: save_digested({"a": torch.ones(3)}, state),
    ):
        with no_handles(), pytest.raises(RunDirectoryError, match="Too many open files") as caught:
            write()
        assert caught.value.remedy.startswith("raise the limit of open files (`ulimit -n`) there, and run")
    assert verify_snapshot(str(snapshot[0])) == snapshot[1]
    assert [*decoded.parent.iterdir()] == []


@pytest.mark.parametrize(
    ("error", "number"),
    [
        (RuntimeError("unable to open file </m> in read-only mode: Too many open files (24)"), errno.EMFILE),
        (RuntimeError("unable to mmap 8 bytes from file </m>: Cannot allocate memory (12)"), errno.ENOMEM),
        (RuntimeError("Error: Too many open files in system (os error 23)"), errno.ENFILE),
        (RuntimeError("unable to mmap 8 bytes from file </m>: Input/output error (5)"), None),
        (OSError(errno.ENOSPC, "No space left on device"), None),
    ],
)
def test_what_a_process_lacks_is_known_in_any_words(error: Exception, number: int | None) -> None:
    if number is None:
        raise_if_exhausted(error)
        return
    with pytest.raises(OSError) as caught:
        raise_if_exhausted(error)
    assert caught.value.errno == number
