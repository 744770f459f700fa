"""Blows at processes of a run on a real Ray: its members, its driver, and Ray's own."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.drills.records import Drill
from tests.drills.small_run import DEADLINES, write_small_run
from tests.drills.strikes import Hit, Place, with_calm_run
from tests.listening import descendants
from tests.ray_head import start_head, stop_head

STOPPED_S = 12.0  # longer than the deadlines of the small run's members
_START_S = 20.0  # a pool starts its members when it is first needed


@contextmanager
def ray_place(folder: Path) -> Iterator[Place]:
    """One Ray for all drills, and an undisturbed run there."""
    head = start_head(folder / "h")
    os.environ.update(head.environment)
    import ray

    try:
        ray.init(address=head.address, log_to_driver=False, namespace="drills", logging_level="error")
        yield _place(folder, head.address)
    finally:
        ray.shutdown()
        stop_head(head)


@contextmanager
def own_ray_place(folder: Path) -> Iterator[Place]:
    """A Ray of its own for every run."""
    yield _place(folder, "local")


def _place(folder: Path, address: str) -> Place:
    run = write_small_run(folder, dict(os.environ), **DEADLINES)
    return with_calm_run(run, ("--address", address), folder / "calm", _aim)


def _aim(drill: Drill, process: subprocess.Popen[str]) -> Hit | None:
    """Find the process, and have it killed or stopped."""
    pid = _find(drill.target, process)
    if pid is None:
        return None
    signal_ = signal.SIGKILL if drill.blow == "kill" else signal.SIGSTOP
    is_continued = drill.blow == "stop and continue"
    return Hit(lambda: os.kill(pid, signal_), (lambda: _continue(pid)) if is_continued else None, STOPPED_S)


def _continue(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGCONT)


def _find(target: str, process: subprocess.Popen[str]) -> int | None:
    """The process to hit; ``None`` when there is none (a pool whose members are not started yet, or gone already)."""
    if target == "driver":
        return process.pid
    if target in ("raylet", "gcs"):
        return next(iter(descendants(process.pid, {"raylet": "/raylet/raylet", "gcs": "/gcs_server"}[target])), None)
    deadline = time.monotonic() + _START_S
    while time.monotonic() < deadline and process.poll() is None:
        if found := _members(process.pid, target):
            return found[0]
        time.sleep(0.1)
    return None


def _members(driver: int, pool: str) -> list[int]:
    from ray._private import state  # the public listing needs Ray's dashboard

    jobs = {job["JobID"] for job in state.jobs() if job["DriverPid"] == driver}
    return [
        actor["Pid"]
        for actor in state.actors().values()
        if actor["JobID"] in jobs
        and actor["Name"].rpartition("/")[0] == pool
        and actor["State"] == "ALIVE"
        and actor["Pid"]
    ]
