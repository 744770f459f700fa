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

from bcpg_cluster.records import StepCheckpoint
from bcpg_cluster.stages.push.file_digests import companion_faults, digest_file, file_faults
from bcpg_cluster.stages.push.snapshot import verify_snapshot
from bcpg_cluster.stages.train.step_checkpoints.record import RECORD, check_step_checkpoint
from tests.snapshots import snapshot_of


@contextmanager
def no_handles() -> Iterator[None]:
    """The process has as many files open as it may."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(
        resource.RLIMIT_NOFILE, (64 + max(int(path.name) for path in Path("/proc/self/fd").iterdir()), hard)
    )
    taken = []
    try:
        with suppress(OSError):
            while True:
                taken.append(os.open(os.devnull, os.O_RDONLY))
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
