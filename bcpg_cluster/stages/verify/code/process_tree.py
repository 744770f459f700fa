"""What a process and all its descendants use, read from ``/proc``: the same as root and as a user, with and without cgroups."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True, slots=True)
class TreeUse:
    """Of a whole tree, at one moment.

    Attributes:
        memory_bytes: resident, what processes share counted once where the kernel says so.
        cpu_s: of the living, and of the children they have waited for.
        own_cpu_s: of each of the living alone, by its id and when it started.
        num_runnable: threads that run or wait for a processor.
        num_waiting: threads that wait for a disk (uninterruptible).
    """

    memory_bytes: int
    cpu_s: float
    own_cpu_s: dict[tuple[int, str], float]
    num_runnable: int
    num_waiting: int


def descendants(process: int) -> Iterator[int]:
    """Ids of the process and of what it started, parents first. What ends meanwhile is left out."""
    yield process
    for thread in _entries(f"/proc/{process}/task"):
        for child in _text(f"/proc/{process}/task/{thread}/children").split():
            yield from descendants(int(child))


def use_of(process: int) -> TreeUse:
    """Look at the tree once."""
    members = list(descendants(process))
    states, cpu_ticks, memory, own_cpu_s = [], 0, 0, {}
    for member in members:
        fields = _stat(f"/proc/{member}/stat")
        if not fields:
            continue
        user, system, waited_user, waited_system = map(int, fields[11:15])
        cpu_ticks += user + system + waited_user + waited_system
        own_cpu_s[member, fields[19]] = (user + system) / _TICKS_PER_S
        memory += _memory_bytes(member, int(fields[21]) * _PAGE_BYTES)
        threads = _entries(f"/proc/{member}/task") if fields[17] != "1" else []
        states += [(_stat(f"/proc/{member}/task/{thread}/stat") or ["X"])[0] for thread in threads] or [fields[0]]
    return TreeUse(memory, cpu_ticks / _TICKS_PER_S, own_cpu_s, states.count("R"), states.count("D"))


def _memory_bytes(process: int, resident_bytes: int) -> int:
    """Resident memory, with a share of what others map as well; all of it where the kernel does not tell the shares."""
    if resident_bytes < 2**26:  # too little to ask, which takes longer
        return resident_bytes
    for line in _text(f"/proc/{process}/smaps_rollup").splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    return resident_bytes


def _stat(path: str) -> list[str]:
    """The fields behind the name, which may hold anything."""
    return _text(path).rpartition(")")[2].split()


def _entries(folder: str) -> list[str]:
    try:
        return os.listdir(folder)  # noqa: PTH208 - asked many times a second
    except OSError:
        return []


def _text(path: str) -> str:
    try:
        with open(path, encoding="ascii", errors="replace") as file:  # noqa: PTH123
            return file.read()
    except OSError:
        return ""


def num_oom_kills() -> int:
    """How many processes the kernel has killed for want of memory since it started."""
    for line in _text("/proc/vmstat").splitlines():
        if line.startswith("oom_kill "):
            return int(line.split()[1])
    return 0
