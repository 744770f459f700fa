"""A journal in an object store: no append, no lock, only objects that appear whole, and "create where there is none".

The lines lie in segments, ``manifest/<epoch>-<number>.jsonl``, the last of which is put anew for every line until it is full.
Whoever takes a run creates segment 0 of the next epoch, which one process alone can do, and notes there how far it read the epoch
before. What a writer that lost the run still adds behind that point does not count: no clock is trusted for that.

Clocks only decide when a run may be taken that was not given back: when its ``run.lock`` was not renewed for ``LEASE_S``
seconds, or at once where the process that held it ran on this machine and is gone, or where a person says so.
"""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from typing import Any

from bcpg_cluster.errors import RunDirectoryError, StoreError, UnreachableError
from bcpg_cluster.store.journals.lines import Chain
from bcpg_cluster.store.journals.owner import BEAT_S, LEASE_S, in_use_error, is_gone, sign_of, this_process
from bcpg_cluster.store.layout import LOCK, SEGMENTS
from bcpg_cluster.store.path import RunPath, StoredPath, read_json

_SEGMENT_BYTES = (
    64 * 1024
)  # a line costs a put of its segment so far: 32 KiB on average; 100,000 lines are some 1,000 objects
_SEGMENT = re.compile(r"(\d{6})-(\d{6})\.jsonl")


class StoredJournal:
    """Segments of an epoch of its own; see the module's docstring.

    Args:
        clock: seconds since 1970, as other machines count them.
        beat: renew the lease in the background (a test may do it by :meth:`renew`).
    """

    def __init__(
        self, run_dir: StoredPath, *, take_over: bool = False, clock: Callable[[], float] = time.time, beat: bool = True
    ) -> None:
        self._run_dir, self._clock = run_dir, clock
        newest, holder = newest_lease(run_dir, clock())
        if holder is not None and not take_over:
            raise held_error(run_dir, holder)
        self._is_taken_over = holder is not None
        self._before = counted(run_dir)
        # The epoch after the one that was seen to be over: whoever took the run since has it already, and is not succeeded.
        self._begin_epoch(newest + 1, sum(map(len, self._before.values())))
        self._is_lost = False
        self._stop = threading.Event()
        self._guard = threading.Lock()
        self.renew()
        self._beat = threading.Thread(target=self._keep_renewing, name="run lease", daemon=True)
        if beat:
            self._beat.start()

    @property
    def is_taken_over(self) -> bool:
        """See :class:`Journal`."""
        return self._is_taken_over

    def _begin_epoch(self, epoch: int, good: int) -> None:
        """Take the run, with the first ``good`` bytes of the epochs before. One process alone can make an epoch."""
        kept = _up_to(self._before, good)
        last = max(kept, default=None)
        chain = Chain()
        for line in _lines(kept):
            chain = chain.after(line)
        owner = {**this_process(), "epoch": epoch}
        after = None if last is None else {"segment": last, "bytes": len(kept[last])}
        tail = chain.signed({"event": "opened", **owner, "time": round(self._clock(), 3), "after": after})
        if not (self._run_dir / SEGMENTS / _name(epoch, 0)).create(tail):
            raise in_use_error(self._run_dir, lease_holder(self._run_dir, self._clock()) or "unknown")
        self._epoch, self._owner, self._number, self._tail = epoch, owner, 0, tail
        self._before = {**kept, _name(epoch, 0): tail}

    def _segment(self) -> StoredPath:
        return self._run_dir / SEGMENTS / _name(self._epoch, self._number)

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

    def cut(self, good: int) -> RunPath:
        """See :class:`Journal`. The next epoch begins behind the good lines; nothing is deleted."""
        with self._guard:
            self._begin_epoch(self._epoch + 1, good)
        self.renew()
        return self._run_dir / SEGMENTS

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
        successor = self._run_dir / SEGMENTS / _name(self._epoch + 1, 0)
        self._is_lost = self._is_lost or successor.is_file()

    def _lost_error(self) -> StoreError:
        holder = lease_holder(self._run_dir, self._clock()) or "unknown"
        return StoreError(
            f"{self._run_dir} was taken over by process {holder}: by --take-over, or because this process gave no sign for "
            f"{LEASE_S:.0f} s. Nothing it does from here on counts"
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


def _lines(segments: Mapping[str, bytes]) -> Iterator[bytes]:
    for content in segments.values():
        yield from content.splitlines(keepends=True)


def _up_to(segments: Mapping[str, bytes], good: int) -> dict[str, bytes]:
    """The segments as far as their first ``good`` bytes go."""
    kept: dict[str, bytes] = {}
    for name, content in segments.items():
        if good > 0:
            kept[name] = content[:good]
        good -= len(content)
    return kept


def stored_lines(run_dir: StoredPath) -> Iterator[bytes]:
    """All lines that count. Changes nothing."""
    return _lines(counted(run_dir))


def held_error(run_dir: StoredPath, holder: str) -> RunDirectoryError:
    """The error where a process in reach of the store works on the run, or did until a moment ago."""
    return RunDirectoryError(
        f"{run_dir} is in use by process {holder}",
        rule=f"one process works on a run at a time; after {LEASE_S:.0f} s without a sign the run is free",
        remedy="wait for it, stop it, take the run over (`iterate` or `stage` with --take-over: what that process still does then "
        "counts no more), or give another --run-dir",
    )


def counted(run_dir: StoredPath) -> dict[str, bytes]:
    """The content of every segment as far as it counts, by name, in order."""
    names = [path.name for path in (run_dir / SEGMENTS).iterdir() if _SEGMENT.fullmatch(path.name)]
    content = dict(zip(names, (run_dir / SEGMENTS).read_children(names), strict=True))
    epochs = _epochs(names)
    for epoch in epochs[1:]:
        after = _opened(run_dir, _name(epoch, 0), content.get(_name(epoch, 0), b""))["after"]
        before = [name for name in content if int(name[:6]) < epoch]
        for name in before:
            if after is None or name > after["segment"]:
                del content[name]
            elif name == after["segment"]:
                content[name] = content[name][: after["bytes"]]
    return content


def _opened(run_dir: StoredPath, name: str, segment: bytes) -> dict[str, Any]:
    """The first line of an epoch: who took the run, when, and how far the epochs before count."""
    try:
        found = json.loads(segment.partition(b"\n")[0])
        after = found["after"]
        if after is not None:
            _ = str(after["segment"]), int(after["bytes"])
        return {**found, "pid": found["pid"], "host": found["host"], "time": float(found["time"])}
    except (ValueError, KeyError, TypeError):
        raise RunDirectoryError(
            f"{run_dir / SEGMENTS / name}: its first line does not say how far the segments before it count; it was changed by "
            "something else, or is gone",
            rule="only bcpg-cluster writes a manifest",
            remedy="put back a copy of that object, or give another --run-dir",
        ) from None


def _name(epoch: int, number: int) -> str:
    return f"{epoch:06d}-{number:06d}.jsonl"


def _epochs(names: Any) -> list[int]:
    return sorted({int(name[:6]) for name in names})


def lease_holder(run_dir: StoredPath, now: float | None = None) -> str | None:
    """The process that works on a run now; ``None`` when there is none. Changes nothing."""
    return newest_lease(run_dir, time.time() if now is None else now)[1]


def newest_lease(run_dir: StoredPath, now: float) -> tuple[int, str | None]:
    """The newest epoch (0: there is none yet), and who holds it."""
    names = [path.name for path in (run_dir / SEGMENTS).iterdir() if _SEGMENT.fullmatch(path.name)]
    if not names:
        return 0, None
    newest = max(_epochs(names))
    lock = read_json(run_dir / LOCK)
    if not isinstance(lock, dict) or lock.get("epoch") != newest:  # taken, and not renewed yet
        lock = _opened(run_dir, _name(newest, 0), (run_dir / SEGMENTS / _name(newest, 0)).read_bytes())
    silent_s = now - lock["time"]
    if lock.get("released") or silent_s > LEASE_S or is_gone(lock):
        return newest, None
    return newest, sign_of(lock, silent_s)
