"""A journal in a directory: one file, appended to, under a lock."""

from __future__ import annotations

import fcntl
import os
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import IO

from bcpg_cluster.store.journals.owner import in_use_error
from bcpg_cluster.store.layout import LOCK, MANIFEST
from bcpg_cluster.store.path import RunPath
from bcpg_cluster.store.whole_files import sync_directory, write_whole

_DAMAGED = re.compile(re.escape(MANIFEST) + r"\.damaged-(\d+)")


def file_lines(path: Path) -> Iterator[bytes]:
    """All lines of a file; none when there is no file."""
    with suppress(FileNotFoundError), path.open("rb") as file:
        yield from file


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
        return file_lines(self._path)

    def begin(self, good: int) -> None:
        """Cut off what a crash left behind."""
        self._file.truncate(good)

    def cut(self, good: int) -> RunPath:
        """See :class:`Journal`."""
        taken = (int(found[1]) for path in self._path.parent.iterdir() if (found := _DAMAGED.fullmatch(path.name)))
        kept = self._path.with_name(f"{MANIFEST}.damaged-{max(taken, default=0) + 1}")
        write_whole(kept, self._path.read_bytes())
        sync_directory(kept.parent)  # before the one that is cut
        self._file.truncate(good)
        os.fsync(self._file.fileno())
        return kept

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
