"""The lock of a run in a directory: ``run.lock``, which says who works on the run and when that process was last heard of.

Among processes of one kernel a kernel lock decides (``flock``), which is free the moment its process is gone, however it ended.
Other machines may not see that lock (NFS often keeps it local), so the file also carries host, process, boot and the time of a
heartbeat every ``BEAT_S`` seconds. A process of another machine counts as working until it gave no sign for ``LEASE_S`` seconds;
then a person may take the run over (``--take-over``), which nothing does by itself: only a person can know that it is gone. A
machine of the same name that was started anew since needs no such word.

Taking over puts another file under the lock's name. Whoever held the lock compares before each line whether the file there is
still its own, and stops when it is not; so it also notices when somebody removes ``run.lock`` while it works.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
import threading
import time
import weakref
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum, auto
from pathlib import Path
from typing import IO, Any

from bcpg_cluster.errors import RunDirectoryError, StoreError
from bcpg_cluster.store.journals.owner import (
    BEAT_S,
    LEASE_S,
    in_use_error,
    is_gone,
    is_of_this_boot,
    sign_of,
    this_process,
)
from bcpg_cluster.store.layout import LIVE, LOCK, MANIFEST
from bcpg_cluster.store.path import read_json
from bcpg_cluster.store.whole_files import sync_directory

Clock = Callable[[], float]
_CLAIM = f".{LOCK}.claim"
_USED_UP = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
_PATIENCE_S = 2.0  # someone may look at the lock at this moment, or have it and not have written its name yet


class Standing(Enum):
    """How a run stands: free, worked on, or held by a process that fell silent."""

    FREE = auto()
    HELD = auto()
    SILENT = auto()


@dataclass(frozen=True, slots=True)
class Holder:
    """Who has a run's lock.

    Attributes:
        name: for people: process, host, and when it was last heard of; empty where the run is free.
        is_locked: the kernel says so, so the process exists.
    """

    standing: Standing
    name: str = ""
    is_locked: bool = False


FREE = Holder(Standing.FREE)


def find_holder(run_dir: Path, now: float) -> Holder:
    """How a run stands. Changes nothing.

    Raises:
        RunDirectoryError: ``run.lock`` is not a file that can be read.
    """
    try:
        with (run_dir / LOCK).open("rb", buffering=0) as file:
            is_locked = not _try_lock(file, fcntl.LOCK_SH)
            found = _holder(file.read(), is_locked, now)
    except (FileNotFoundError, NotADirectoryError):
        return _holder_without_lock(run_dir, now)
    except OSError as error:
        raise unfit_error(run_dir / LOCK, error) from None
    return _holder_of_manifest(run_dir) if found.standing is Standing.FREE else found


def check_free(run_dir: Path, now: float, *, take_over: bool) -> None:
    """Raises :class:`RunDirectoryError` where this process may not work on a run. Changes nothing."""
    _refuse(run_dir, find_holder(run_dir, now), take_over=take_over)


def unfit_error(path: Path, error: OSError) -> RunDirectoryError | OSError:
    """The error for a file of the journal that is none, or that this user may not read or write; a full disk stays what it is."""
    if error.errno in _USED_UP:
        return OSError(error.errno, error.strerror, str(path))
    return RunDirectoryError(
        f"{path} cannot be used: {error.strerror}",
        rule=f"a run's {LOCK} and {MANIFEST} are files that this user may read and write",
        remedy="move what is there out of the way, change its owner or permissions, or give another --run-dir",
    )


class RunLock:
    """The lock, taken. Freed by :meth:`release`, or by the end of the process.

    Args:
        take_over: also from a process that fell silent.
        clock: seconds since 1970, as other machines count them.
        beat: renew the sign in the background (a test may do it by :meth:`renew`).

    Raises:
        RunDirectoryError: another process works on the run, or fell silent and ``take_over`` is not set.
    """

    def __init__(self, run_dir: Path, *, take_over: bool = False, clock: Clock = time.time, beat: bool = True) -> None:
        self._path, self._clock = run_dir / LOCK, clock
        self._owner = this_process()
        try:
            self._file, self.is_taken_over = _take(run_dir, clock, take_over=take_over)
        except OSError as error:
            raise unfit_error(self._path, error) from None
        try:
            self._write(is_released=False)
        except OSError as error:
            self._file.close()
            raise unfit_error(self._path, error) from None
        self._stop, self._guard = threading.Event(), threading.Lock()
        if beat:
            threading.Thread(
                target=_keep_renewing, args=(weakref.ref(self), self._stop), name="run lock", daemon=True
            ).start()

    def check_held(self) -> None:
        """Raises :class:`StoreError` when the file under the lock's name is no longer this process's."""
        if is_at(self._file, self._path):
            return
        now = find_holder(self._path.parent, self._clock())
        raise StoreError(
            f"{self._path} is no longer this process's: "
            + (
                f"the run was taken over by process {now.name}"
                if now.name
                else "it was removed or replaced while it worked"
            )
            + ". Nothing this process does from here on counts"
        )

    def renew(self) -> None:
        """Say that this process still works on the run, unless it has lost it or given it back."""
        with self._guard:
            if not self._stop.is_set() and is_at(self._file, self._path):
                self._write(is_released=False)

    def _write(self, *, is_released: bool) -> None:
        content = _sign(self._owner, self._clock(), is_released=is_released)
        os.pwrite(self._file.fileno(), content, 0)
        os.ftruncate(self._file.fileno(), len(content))
        os.fsync(self._file.fileno())  # so that other machines see it

    def release(self) -> None:
        """Give the run back."""
        with self._guard:
            if self._stop.is_set():
                return
            self._stop.set()
            with suppress(OSError):  # a sign that runs out by itself
                self._write(is_released=True)
            self._file.close()


def _keep_renewing(lock: weakref.ref[RunLock], stop: threading.Event) -> None:
    while not stop.wait(BEAT_S):
        held = lock()
        if held is None:
            return
        with suppress(OSError):  # seen by the next line
            held.renew()
        del held


def is_at(file: IO[bytes], path: Path) -> bool:
    """Whether an open file still has the name.

    Raises:
        OSError: nothing can be told of the file there.
    """
    own = os.fstat(file.fileno())
    try:
        found = _stat_anew(path)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ESTALE):
            return False
        raise
    return (own.st_dev, own.st_ino) == (found.st_dev, found.st_ino)


def _stat_anew(path: Path) -> os.stat_result:
    """Of the file that has the name now. It is opened for that: anything else NFS answers from memory for a while."""
    try:
        with path.open("rb", buffering=0) as there:
            return os.fstat(there.fileno())
    except OSError as error:
        if error.errno in (errno.EMFILE, errno.ENFILE):  # no file may be opened, which says nothing of this one
            return path.stat()
        raise


def lock_file(file: IO[bytes], run_dir: Path) -> None:
    """Take the kernel's lock of the manifest itself, in case ``run.lock`` was removed.

    Raises:
        RunDirectoryError: another process has it.
    """
    patience = time.monotonic() + _PATIENCE_S
    while not _try_lock(file, fcntl.LOCK_EX):
        if time.monotonic() > patience:
            raise in_use_error(run_dir, _holder_of_manifest(run_dir).name or "unknown")
        time.sleep(0.02)


def _take(run_dir: Path, clock: Clock, *, take_over: bool) -> tuple[IO[bytes], bool]:
    """The lock's open file, and whether it was taken from a silent process."""
    path, patience = run_dir / LOCK, time.monotonic() + _PATIENCE_S
    while True:
        if not path.exists():  # before it is made
            _refuse(run_dir, _holder_without_lock(run_dir, clock()), take_over=take_over)
        file = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o644), "r+b", buffering=0)
        is_mine = _try_lock(file, fcntl.LOCK_EX)
        content = file.read()
        if is_mine and not is_at(file, path):  # replaced before it was locked
            file.close()
            continue
        holder = _holder(content, not is_mine, clock())
        if is_mine and holder.standing is Standing.FREE:
            return file, False
        file.close()
        if is_mine or _is_working(content) or time.monotonic() > patience:
            _refuse(run_dir, holder, take_over=take_over)
            return _replace(run_dir, content, clock), True
        time.sleep(0.02)


def _refuse(run_dir: Path, holder: Holder, *, take_over: bool) -> None:
    """Raise the error for a run that is held, or silent and not to be taken over."""
    if holder.standing is Standing.HELD:
        raise in_use_error(run_dir, holder.name)
    if holder.standing is Standing.SILENT and not take_over:
        raise RunDirectoryError(
            f"{run_dir} is held by process {holder.name}, and that process is silent",
            rule=f"one process works on a run at a time; a person may take it from one that gave no sign for {LEASE_S:.0f} s",
            remedy="end it (`kill -9`) and run the same command again, or take the run over (`iterate` or `stage` with --take-over)"
            if holder.is_locked
            else f"see that it has ended, or end it; then add --take-over (`iterate`, `stage`), or remove {run_dir / LOCK}",
        )


def _replace(run_dir: Path, stale: bytes, clock: Clock) -> IO[bytes]:
    """Put a lock of this process in the place of a silent one's; of several that try, one process does."""
    path, claim = run_dir / LOCK, run_dir / _CLAIM
    own = _sign(this_process(), clock(), is_released=False)
    _claim(run_dir, claim, own)
    try:
        if path.read_bytes() != stale:
            raise in_use_error(run_dir, find_holder(run_dir, clock()).name or "unknown")
        partial = path.with_name(f".{LOCK}.{os.getpid()}.partial")
        file = os.fdopen(os.open(partial, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o644), "r+b", buffering=0)
        _try_lock(file, fcntl.LOCK_EX)
        file.write(own)
        os.fsync(file.fileno())
        partial.rename(path)
        sync_directory(run_dir)
        return file
    finally:
        claim.unlink(missing_ok=True)


def _claim(run_dir: Path, claim: Path, own: bytes) -> None:
    """Make the claim, which one process alone can, on NFS too."""
    for is_last in (False, True):
        try:
            with claim.open("xb") as file:
                file.write(own)
            return
        except FileExistsError:
            if is_last or not _is_left_over(claim):
                raise in_use_error(run_dir, "unknown (it takes the run over at this moment)") from None
            claim.unlink(missing_ok=True)


def _is_left_over(claim: Path) -> bool:
    """Whether its process ended in the midst of taking over, which takes an instant."""
    try:
        sign = _read_sign(claim.read_bytes())
        return (sign is not None and is_gone(sign)) or time.time() - claim.stat().st_mtime > LEASE_S
    except FileNotFoundError:
        return True


# --- what the lock says --------------------------------------------------------------------------------------------


def _sign(owner: Mapping[str, Any], now: float, *, is_released: bool) -> bytes:
    return json.dumps({**owner, "time": round(now, 3), "released": is_released}).encode() + b"\n"


def _read_sign(content: bytes) -> dict[str, Any] | None:
    """What a process wrote into the lock; ``None`` where it is empty, or of a program that wrote only its number."""
    try:
        sign = json.loads(content)
        return {
            **sign,
            "pid": int(sign["pid"]),
            "host": str(sign["host"]),
            "time": float(sign["time"]),
            "started": sign["started"],
        }
    except (ValueError, KeyError, TypeError):
        return None


def _is_working(content: bytes) -> bool:
    sign = _read_sign(content)
    return sign is not None and not sign.get("released") and not is_gone(sign)


def _holder(content: bytes, is_locked: bool, now: float) -> Holder:
    sign = _read_sign(content)
    if sign is None:
        name = content.decode(errors="replace").strip()[:40] or "unknown"
        return Holder(Standing.HELD, name, True) if is_locked else FREE
    if is_locked and (sign.get("released") or is_gone(sign)):
        return Holder(Standing.HELD, "unknown (it has just started)", True)
    is_silent = now - sign["time"] > LEASE_S
    name = sign_of(sign, now - sign["time"])
    if is_locked:
        return Holder(Standing.SILENT if is_silent else Standing.HELD, name, True)
    if sign.get("released") or is_of_this_boot(sign) or (is_silent and sign["host"] == socket.gethostname()):
        return FREE
    return Holder(Standing.SILENT if is_silent else Standing.HELD, name)


def _holder_without_lock(run_dir: Path, now: float) -> Holder:
    """Where ``run.lock`` is gone: the manifest's own lock tells of this machine's processes, ``live.json`` of others'."""
    try:
        live = read_json(run_dir / LIVE)
        silent_s = now - float(live["heartbeat"])
        is_elsewhere = live["ended"] is None and not is_of_this_boot({"machine": live["boot"], "host": live["host"]})
        if is_elsewhere and abs(silent_s) <= LEASE_S:
            return Holder(Standing.HELD, f"{sign_of(live, silent_s)[:-1]}, in {LIVE}; {LOCK} was removed)")
    except (OSError, ValueError, KeyError, TypeError):
        pass
    return _holder_of_manifest(run_dir)


def _holder_of_manifest(run_dir: Path) -> Holder:
    with suppress(OSError), (run_dir / MANIFEST).open("rb", buffering=0) as file:
        if not _try_lock(file, fcntl.LOCK_SH):
            return Holder(Standing.HELD, f"unknown (it works on {MANIFEST}; its {LOCK} was removed)", True)
    return FREE


def _try_lock(file: IO[bytes], kind: int) -> bool:
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
