"""Where the manifest's lines are kept, by one writer at a time: in a directory (:mod:`bcpg_cluster.store.journals.in_directory`)
or in an object store (:mod:`bcpg_cluster.store.journals.in_store`).
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Protocol

from bcpg_cluster.store.journals import lock
from bcpg_cluster.store.journals.in_directory import FileJournal, file_lines
from bcpg_cluster.store.journals.in_store import StoredJournal, held_error, lease_holder, stored_lines
from bcpg_cluster.store.layout import MANIFEST, SEGMENTS
from bcpg_cluster.store.path import RunPath, StoredPath


class Journal(Protocol):
    """The open journal of a run. No other process adds lines while it is open."""

    @property
    def is_taken_over(self) -> bool:
        """Whether it was taken from a process that had not given it back."""
        ...

    def lines(self) -> Iterator[bytes]:
        """All lines so far; in a file the last may be torn."""
        ...

    def begin(self, good: int) -> None:
        """Start to add after the first ``good`` bytes."""
        ...

    def cut(self, good: int) -> RunPath:
        """In place of :meth:`begin`, where what follows the first ``good`` bytes is damaged: let go of it.

        Returns:
            where the journal is kept as it was.
        """
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


def open_journal(run_dir: RunPath, *, take_over: bool = False) -> Journal:
    """Take the run's journal.

    Args:
        take_over: in a directory also from a process that gave no sign for a minute. In an object store from any other process:
            what that one still writes counts no more.

    Raises:
        RunDirectoryError: another process holds it.
    """
    if isinstance(run_dir, StoredPath):
        return StoredJournal(run_dir, take_over=take_over)
    return FileJournal(run_dir, take_over=take_over)


def check_free(run_dir: RunPath, *, take_over: bool = False) -> None:
    """Raises :class:`RunDirectoryError` where :func:`open_journal` would. Changes nothing."""
    if isinstance(run_dir, StoredPath):
        holder = lease_holder(run_dir)
        if holder is not None and not take_over:
            raise held_error(run_dir, holder)
    else:
        lock.check_free(run_dir, time.time(), take_over=take_over)


def has_journal(run_dir: RunPath) -> bool:
    """Whether anything was ever noted there."""
    return (run_dir / SEGMENTS).is_dir() if isinstance(run_dir, StoredPath) else (run_dir / MANIFEST).is_file()


def journal_place(run_dir: RunPath) -> RunPath:
    """What to call the journal in messages."""
    return run_dir / (SEGMENTS if isinstance(run_dir, StoredPath) else MANIFEST)


def journal_lines(run_dir: RunPath) -> Iterator[bytes]:
    """All lines as they stand; none when there is no journal. Changes nothing."""
    if isinstance(run_dir, StoredPath):
        yield from stored_lines(run_dir)
    else:
        yield from file_lines(run_dir / MANIFEST)


def lock_holder(run_dir: RunPath) -> str | None:
    """The process that works on a run now (with its machine in an object store); ``None`` when there is none. Changes nothing.

    One of another machine that fell silent counts as none.
    """
    if isinstance(run_dir, StoredPath):
        return lease_holder(run_dir)
    holder = lock.find_holder(run_dir, time.time())
    return holder.name if holder.is_locked or holder.standing is lock.Standing.HELD else None
