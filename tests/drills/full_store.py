"""A full object store of Ray: what members and driver send each other must not depend on it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.drills.fill_store import FULL
from tests.drills.records import Drill
from tests.drills.small_run import DEADLINES, write_small_run
from tests.drills.strikes import Hit, Place, with_calm_run
from tests.ray_head import Head, start_head, stop_head

_STORE_BYTES = 80_000_000  # the least that Ray takes


@contextmanager
def store_place(folder: Path) -> Iterator[Place]:
    """A Ray with a small store and a disk that it takes for full, so that nothing can be spilled."""
    head = start_head(folder / "h", f"--object-store-memory={_STORE_BYTES}", RAY_local_fs_capacity_threshold="0.001")

    def aim(drill: Drill, process: subprocess.Popen[str]) -> Hit:
        filler = _filler(head)
        return Hit(lambda: _await_full(filler), lambda: filler.communicate(timeout=60))

    try:
        run = write_small_run(folder, head.environment, **DEADLINES)
        yield with_calm_run(run, ("--address", head.address), folder / "calm", aim)
    finally:
        stop_head(head)


def _filler(head: Head) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.drills.fill_store", head.address, str(_STORE_BYTES)]
    return subprocess.Popen(
        command,
        env=dict(head.environment),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def _await_full(filler: subprocess.Popen[str]) -> None:
    assert filler.stdout is not None
    said = list(iter(filler.stdout.readline, f"{FULL}\n"))
    assert filler.poll() is None, "".join(said)
