"""Where the manifest's lines are kept, by one writer at a time. In a directory: one file, appended to, under a kernel lock.

In an object store there is neither append nor lock, only objects that appear whole, and "create where there is none". So the lines
lie in segments, ``manifest/<epoch>-<number>.jsonl``, the last of which is put anew for every line until it is full. Whoever takes
a run creates segment 0 of the next epoch, which one process alone can do, and notes there how far it read the epoch before.
What a writer that lost the run still adds behind that point does not count: no clock is trusted for that.

Clocks only decide when a run may be taken that was not given back: when its ``run.lock`` was not renewed for ``LEASE_S``
seconds, or at once where the process that held it ran on this machine and is gone.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, Protocol

from bcpg_cluster.errors import RunDirectoryError, StoreError, UnreachableError
from bcpg_cluster.store.layout import LOCK, MANIFEST, SEGMENTS
from bcpg_cluster.store.path import RunPath, StoredPath, read_json

BEAT_S = 10.0
LEASE_S = 60.0
_SEGMENT_BYTES = (
    64 * 1024
)  # a line costs a put of its segment so far: 32 KiB on average; 100,000 lines are some 1,000 objects
_SEGMENT = re.compile(r"(\d{6})-(\d{6})\.jsonl")


class Journal(Protocol):
    """The open journal of a run. No other process adds lines while it is open."""

    def lines(self) -> Iterator[bytes]:
        """All lines so far; in a file the last may be torn."""
        ...

    def begin(self, good: int) -> None:
        """Start to add after the first ``good`` bytes."""
        ...

    def append(self, lines: bytes) -> None:
        """Add whole lines; they are durable when this returns.

        Raises:
            StoreError: the run was taken over by another process.
            UnreachableError: they could not be written.
        """
        ...

    def check_held(self) -> None:
        """Before something that cannot be taken back. Raises :class:`StoreError` when the run was taken over."""
        ...

    def close(self) -> None:
        """Give the run back."""
        ...


def open_journal(run_dir: RunPath) -> Journal:
    """Take the run's journal. Raises :class:`RunDirectoryError` when another process holds it."""
    return StoredJournal(run_dir) if isinstance(run_dir, StoredPath) else FileJournal(run_dir)


def has_journal(run_dir: RunPath) -> bool:
    """Whether anything was ever noted there."""
    return (run_dir / SEGMENTS).is_dir() if isinstance(run_dir, StoredPath) else (run_dir / MANIFEST).is_file()


def journal_place(run_dir: RunPath) -> RunPath:
    """What to call the journal in messages."""
    return run_dir / (SEGMENTS if isinstance(run_dir, StoredPath) else MANIFEST)


def journal_lines(run_dir: RunPath) -> Iterator[bytes]:
    """All lines as they stand; none when there is no journal. Changes nothing."""
    if isinstance(run_dir, StoredPath):
        yield from _lines(_counted(run_dir))
    else:
        yield from _file_lines(run_dir / MANIFEST)


def _file_lines(path: Path) -> Iterator[bytes]:
    with suppress(FileNotFoundError), path.open("rb") as file:
        yield from file


def _lines(segments: Mapping[str, bytes]) -> Iterator[bytes]:
    for content in segments.values():
        yield from content.splitlines(keepends=True)


def lock_holder(run_dir: RunPath) -> str | None:
    """The process that works on a run now (with its machine in an object store); ``None`` when there is none. Changes nothing."""
    if isinstance(run_dir, StoredPath):
        return _lease_holder(run_dir)
    path = run_dir / LOCK
    if not path.exists():
        return None
    with path.open() as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            return lock.read().strip() or "unknown"
    return None


def in_use_error(run_dir: RunPath, holder: str) -> RunDirectoryError:
    """The error for a second process that wants to work on a run."""
    return RunDirectoryError(
        f"{run_dir} is in use by process {holder}",
        rule="one process works on a run at a time",
        remedy="wait for it, stop it, or give another --run-dir",
    )


# --- in a directory ----------------------------------------------------------------------------------------------


class FileJournal:
    """``manifest.jsonl`` under a lock that the kernel gives back when the process ends, however it ends."""

    def __init__(self, run_dir: Path) -> None:
        run_dir.mkdir(parents=True, exist_ok=True)
        self._path = run_dir / MANIFEST
        self._lock: IO[str] = (run_dir / LOCK).open("a+")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._lock.seek(0)
            holder = self._lock.read().strip() or "unknown"
            self._lock.close()
            raise in_use_error(run_dir, holder) from None
        self._lock.truncate(0)
        self._lock.write(str(os.getpid()))
        self._lock.flush()
        self._file = self._path.open("ab")

    def lines(self) -> Iterator[bytes]:
        """See :class:`Journal`."""
        return _file_lines(self._path)

    def begin(self, good: int) -> None:
        """Cut off what a crash left behind."""
        self._file.truncate(good)

    def append(self, lines: bytes) -> None:
        """See :class:`Journal`."""
        self._file.write(lines)
        self._file.flush()
        os.fsync(self._file.fileno())

    def check_held(self) -> None:
        """A kernel lock is never lost."""

    def close(self) -> None:
        """See :class:`Journal`."""
        self._file.close()
        self._lock.close()


# --- in an object store ------------------------------------------------------------------------------------------


class StoredJournal:
    """Segments of an epoch of its own; see the module's docstring.

    Args:
        clock: seconds since 1970, as other machines count them.
        beat: renew the lease in the background (a test may do it by :meth:`renew`).
    """

    def __init__(self, run_dir: StoredPath, *, clock: Callable[[], float] = time.time, beat: bool = True) -> None:
        self._run_dir, self._clock = run_dir, clock
        newest, holder = _newest_lease(run_dir, clock())
        if holder is not None:
            raise in_use_error(run_dir, holder)
        # The epoch after the one that was seen to be over: whoever took the run since has it already, and is not succeeded.
        self._epoch = newest + 1
        before = _counted(run_dir)
        last = max(before, default=None)
        self._owner = {**_this_process(), "epoch": self._epoch}
        opened = {
            "event": "opened",
            **self._owner,
            "time": round(clock(), 3),
            "after": None if last is None else {"segment": last, "bytes": len(before[last])},
        }
        self._number, self._tail = 0, json.dumps(opened).encode() + b"\n"
        if not self._segment().create(self._tail):
            raise in_use_error(run_dir, _lease_holder(run_dir, clock()) or "unknown")
        self._before = before
        self._is_lost = False
        self._stop = threading.Event()
        self._guard = threading.Lock()
        self.renew()
        self._beat = threading.Thread(target=self._keep_renewing, name="run lease", daemon=True)
        if beat:
            self._beat.start()

    def _segment(self) -> StoredPath:
        return self._run_dir / SEGMENTS / f"{self._epoch:06d}-{self._number:06d}.jsonl"

    def lines(self) -> Iterator[bytes]:
        """See :class:`Journal`."""
        return _lines(self._before)

    def begin(self, good: int) -> None:
        """Nothing here can be torn, so anything but all of it was done by another process."""
        if good != sum(map(len, self._before.values())):
            place = self._run_dir / SEGMENTS
            raise RunDirectoryError(
                f"{place}: its last line is not an event; an object was changed by something else",
                rule="only bcpg-cluster writes a manifest",
                remedy="put back a copy of the manifest, or give another --run-dir",
            )
        self._before = {}

    def append(self, lines: bytes) -> None:
        """See :class:`Journal`."""
        with self._guard:
            if self._clock() - self._renewed > BEAT_S * 2:  # the beat did not come through, or the process slept
                self._look_for_successor()
            if self._is_lost:
                raise self._lost_error()
            content = self._tail + lines
            self._segment().write(content)
            self._tail = content
            if len(content) >= _SEGMENT_BYTES:
                self._number, self._tail = self._number + 1, b""

    def check_held(self) -> None:
        """See :class:`Journal`."""
        with self._guard:
            self._look_for_successor()
            if self._is_lost:
                raise self._lost_error()

    def renew(self) -> None:
        """Say that this process still works on the run, unless it has lost it."""
        with self._guard:
            self._look_for_successor()
            if not self._is_lost:
                self._write_lock(is_released=False)
                self._renewed = self._clock()

    def _keep_renewing(self) -> None:
        while not self._stop.wait(BEAT_S):
            with suppress(UnreachableError):  # a store that does not answer is seen by the next append
                self.renew()

    def _look_for_successor(self) -> None:
        successor = self._run_dir / SEGMENTS / f"{self._epoch + 1:06d}-{0:06d}.jsonl"
        self._is_lost = self._is_lost or successor.is_file()

    def _lost_error(self) -> StoreError:
        holder = _lease_holder(self._run_dir, self._clock()) or "unknown"
        return StoreError(
            f"{self._run_dir} was taken over by process {holder}: this process gave no sign for {LEASE_S:.0f} s. "
            "Nothing it does from here on counts"
        )

    def _write_lock(self, *, is_released: bool) -> None:
        content = {**self._owner, "time": round(self._clock(), 3), "released": is_released}
        (self._run_dir / LOCK).write(json.dumps(content).encode())

    def close(self) -> None:
        """See :class:`Journal`."""
        self._stop.set()
        if self._beat.is_alive():
            self._beat.join()
        with suppress(UnreachableError):  # the lease runs out by itself
            self._look_for_successor()
            if not self._is_lost:
                self._write_lock(is_released=True)


def _counted(run_dir: StoredPath) -> dict[str, bytes]:
    """The content of every segment as far as it counts, by name, in order."""
    names = [path.name for path in (run_dir / SEGMENTS).iterdir() if _SEGMENT.fullmatch(path.name)]
    content = dict(zip(names, (run_dir / SEGMENTS).read_children(names), strict=True))
    epochs = _epochs(names)
    for epoch in epochs[1:]:
        after = json.loads(content[_name(epoch, 0)].partition(b"\n")[0])["after"]
        before = [name for name in content if int(name[:6]) < epoch]
        for name in before:
            if after is None or name > after["segment"]:
                del content[name]
            elif name == after["segment"]:
                content[name] = content[name][: after["bytes"]]
    return content


def _name(epoch: int, number: int) -> str:
    return f"{epoch:06d}-{number:06d}.jsonl"


def _epochs(names: Any) -> list[int]:
    return sorted({int(name[:6]) for name in names})


def _lease_holder(run_dir: StoredPath, now: float | None = None) -> str | None:
    return _newest_lease(run_dir, time.time() if now is None else now)[1]


def _newest_lease(run_dir: StoredPath, now: float) -> tuple[int, str | None]:
    """The newest epoch (0: there is none yet), and who holds it."""
    names = [path.name for path in (run_dir / SEGMENTS).iterdir() if _SEGMENT.fullmatch(path.name)]
    if not names:
        return 0, None
    newest = max(_epochs(names))
    lock = read_json(run_dir / LOCK)
    if not isinstance(lock, dict) or lock.get("epoch") != newest:  # taken, and not renewed yet
        lock = json.loads((run_dir / SEGMENTS / _name(newest, 0)).read_bytes().partition(b"\n")[0])
    silent_s = now - lock["time"]
    if lock.get("released") or silent_s > LEASE_S or _is_gone(lock):
        return newest, None
    return newest, (
        f"{lock['pid']} on {lock['host']} (its last sign came {max(silent_s, 0.0):.0f} s ago; "
        f"after {LEASE_S:.0f} s without one the run is free)"
    )


def _this_process() -> dict[str, Any]:
    return {"pid": os.getpid(), "host": socket.gethostname(), "machine": _machine(), "started": _started(os.getpid())}


def _is_gone(owner: dict[str, Any]) -> bool:
    """Whether the process ran on this very machine and is no more."""
    return owner.get("machine") == _machine() is not None and _started(owner["pid"]) != owner["started"]


def _machine() -> str | None:
    """This boot of this machine, and this space of process ids; ``None`` where the kernel does not say."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot}/{os.readlink('/proc/self/ns/pid')}"  # noqa: PTH115  (not a path: "pid:[4026531836]")
    except OSError:
        return None


def _started(pid: int) -> str | None:
    """When a process started, in ticks since boot: a number that is used again tells itself apart. ``None``: it is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else fields[19]
