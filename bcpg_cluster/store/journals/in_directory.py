"""A journal in a directory: one file, appended to, under a lock."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import IO

from bcpg_cluster.errors import StoreError
from bcpg_cluster.store.journals.lock import RunLock, is_at, lock_file, unfit_error
from bcpg_cluster.store.layout import MANIFEST
from bcpg_cluster.store.path import RunPath
from bcpg_cluster.store.whole_files import sync_directory, write_whole

_DAMAGED = re.compile(re.escape(MANIFEST) + r"\.damaged-(\d+)")


def file_lines(path: Path) -> Iterator[bytes]:
    """All lines of a file; none when there is no file. Raises :class:`RunDirectoryError` where it cannot be read."""
    try:
        with path.open("rb") as file:
            yield from file
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as error:
        raise unfit_error(path, error) from None


class FileJournal:
    """``manifest.jsonl`` under :class:`RunLock`; it has a kernel lock itself, in case somebody removes ``run.lock``.

    Args:
        take_over: also from a process that fell silent. The manifest gets another file then, so that a line which that process
            still adds lands in one that no longer has the name.

    Raises:
        RunDirectoryError: another process works on the run, or lock or manifest are no files that can be written.
    """

    def __init__(
        self, run_dir: Path, *, take_over: bool = False, clock: Callable[[], float] = time.time, beat: bool = True
    ) -> None:
        self._path = run_dir / MANIFEST
        try:
            run_dir.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise unfit_error(run_dir, error) from None
        self._lock = RunLock(run_dir, take_over=take_over, clock=clock, beat=beat)
        self._fault: OSError | None = None
        try:
            if self._lock.is_taken_over and self._path.exists():
                write_whole(self._path, self._path.read_bytes())
            self._file: IO[bytes] = self._path.open("ab", buffering=0)
            lock_file(self._file, run_dir)
            with suppress(OSError):  # some network file systems do not know it
                sync_directory(run_dir)
        except OSError as error:
            self._lock.release()
            raise unfit_error(self._path, error) from None
        except BaseException:
            self._lock.release()
            raise
        self._size = os.fstat(self._file.fileno()).st_size

    @property
    def is_taken_over(self) -> bool:
        """See :class:`Journal`."""
        return self._lock.is_taken_over

    def lines(self) -> Iterator[bytes]:
        """See :class:`Journal`."""
        return file_lines(self._path)

    def begin(self, good: int) -> None:
        """Cut off what a crash left behind."""
        self._shorten(good)

    def cut(self, good: int) -> RunPath:
        """See :class:`Journal`."""
        self.check_held()
        taken = (int(found[1]) for path in self._path.parent.iterdir() if (found := _DAMAGED.fullmatch(path.name)))
        kept = self._path.with_name(f"{MANIFEST}.damaged-{max(taken, default=0) + 1}")
        write_whole(kept, self._path.read_bytes())
        sync_directory(kept.parent)  # before the one that is cut
        self._shorten(good)
        return kept

    def _shorten(self, good: int) -> None:
        if good != os.fstat(self._file.fileno()).st_size:
            os.ftruncate(self._file.fileno(), good)
            os.fsync(self._file.fileno())
        self._size = good

    def append(self, lines: bytes) -> None:
        """See :class:`Journal`. What was half written is cut back, and nothing can be added any more.

        Raises:
            OSError: names the file: the disk is full or does not work.
        """
        if self._fault is not None:
            raise self._fault
        self.check_held()
        try:
            rest = memoryview(lines)
            while rest:
                rest = rest[self._file.write(rest) :]
            os.fsync(self._file.fileno())
        except BaseException as error:
            with suppress(OSError):  # then it is torn, and dropped when the run is opened again
                self._shorten(self._size)
            if isinstance(error, OSError):
                # After a failed fsync it is unknown what is on disk: a later one that succeeds would prove nothing.
                self._fault = OSError(error.errno, error.strerror, str(self._path))
                raise self._fault from error
            raise
        self._size += len(lines)

    def check_held(self) -> None:
        """See :class:`Journal`."""
        self._lock.check_held()
        if not is_at(self._file, self._path):
            raise StoreError(
                f"{self._path} was removed or replaced while this process worked. Nothing it does from here on counts"
            )

    def close(self) -> None:
        """See :class:`Journal`."""
        self._file.close()
        self._lock.release()
