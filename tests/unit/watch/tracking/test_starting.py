"""A tracker that the machine does not let start never stops a run."""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import Any

import pytest

from bcpg_cluster.stages.fakes.disk_faults import DiskFault, WatchedDisk
from bcpg_cluster.store.manifest import read_manifest
from bcpg_cluster.watch.tracking.observer import tracking


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EROFS, errno.EMFILE])
def test_a_full_disk_is_said_and_the_tracker_left_out(
    error: int, finished_run: Any, make_config: Callable[..., Any], tmp_path: Any
) -> None:
    config = make_config(tracking={"tensorboard": {}, "folder": str(tmp_path / "tracking")})
    assert config.tracking.chosen == ("tensorboard",)
    notes: list[str] = []
    full = WatchedDisk(tmp_path / "tracking", DiskFault(1, is_lasting=True, error=error))
    run = finished_run.directory
    with full, tracking(config, run, read_manifest(run), notes.append) as observer:
        assert observer is not None
    assert len(notes) == 1
    assert notes[0].startswith("tensorboard did not start, the run continues without it: [Errno")
