"""Who works on a run: a process, told apart from others of its machine and of other machines."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bcpg_cluster.errors import RunDirectoryError
from bcpg_cluster.store.path import RunPath

BEAT_S = 10.0
LEASE_S = 60.0


def in_use_error(run_dir: RunPath, holder: str) -> RunDirectoryError:
    """The error for a second process that wants to work on a run."""
    return RunDirectoryError(
        f"{run_dir} is in use by process {holder}",
        rule="one process works on a run at a time",
        remedy="wait for it, stop it, or give another --run-dir",
    )


def sign_of(owner: Mapping[str, Any], silent_s: float) -> str:
    """A process and when it was last heard of, for people."""
    return f"{owner['pid']} on {owner['host']} (its last sign came {max(silent_s, 0.0):.0f} s ago)"


def this_process() -> dict[str, Any]:
    """This process, as ``run.lock`` names it: ``machine`` is :func:`machine`, ``started`` is :func:`started`."""
    return {"pid": os.getpid(), "host": socket.gethostname(), "machine": machine(), "started": started(os.getpid())}


def is_gone(owner: Mapping[str, Any]) -> bool:
    """Whether the process ran on this very machine and is no more."""
    return owner.get("machine") == machine() is not None and started(owner["pid"]) != owner["started"]


def machine() -> str | None:
    """This boot of this machine, and this space of process ids; ``None`` where the kernel does not say."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot}/{os.readlink('/proc/self/ns/pid')}"  # noqa: PTH115  (not a path: "pid:[4026531836]")
    except OSError:
        return None


def started(pid: int) -> str | None:
    """When a process started, in ticks since boot: a number that is used again tells itself apart. ``None``: it is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else fields[19]


def is_of_this_boot(owner: Mapping[str, Any]) -> bool:
    """Whether the process belongs to the kernel that runs here, so that kernel locks tell of it, in any container."""
    here = machine()
    if here is None:  # no Linux: the host's name has to do
        return owner.get("machine") is None and owner.get("host") == socket.gethostname()
    return str(owner.get("machine")).partition("/")[0] == here.partition("/")[0]
