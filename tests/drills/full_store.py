"""A full object store of Ray: what members and driver send each other must not depend on it."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.drills.records import Drill
from tests.drills.small_run import DEADLINES, write_small_run
from tests.drills.strikes import Hit, Place, with_calm_run
from tests.ray_head import start_head, stop_head

_STORE_BYTES = 80_000_000  # the least that Ray takes
_PIECES = (8_000_000, 1_000_000, 150_000)  # above what travels inline


@contextmanager
def store_place(folder: Path) -> Iterator[Place]:
    """A Ray with a small store and a disk that it takes for full, so that nothing can be spilled."""
    head = start_head(folder / "h", f"--object-store-memory={_STORE_BYTES}", RAY_local_fs_capacity_threshold="0.001")
    os.environ.update(head.environment)
    import ray

    kept: list[object] = []

    def fill() -> None:
        for size in _PIECES:
            _put_until_full(size, kept)

    def aim(drill: Drill, process: subprocess.Popen[str]) -> Hit:
        return Hit(fill, kept.clear)

    try:
        ray.init(address=head.address, log_to_driver=False, namespace="drills", logging_level="error")
        run = write_small_run(folder, dict(os.environ), **DEADLINES)
        yield with_calm_run(run, ("--address", head.address), folder / "calm", aim)
    finally:
        ray.shutdown()
        stop_head(head)


def _put_until_full(size: int, kept: list[object]) -> None:
    import ray
    from ray.exceptions import ObjectStoreFullError, OutOfDiskError

    for _ in range(2 * _STORE_BYTES // size):
        try:
            kept.append(ray.put(b"x" * size))
        except (ObjectStoreFullError, OutOfDiskError):
            return
    raise AssertionError(f"objects of {size} bytes still fit: the store is not full")
