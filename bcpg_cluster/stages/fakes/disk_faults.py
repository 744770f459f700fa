"""A disk that fails at a chosen operation, for runs whose members are threads of this process.

Counted and failed is what the operating system is asked for: opening a file to write, fsync, rename, making and removing. So every
durable operation is met, whoever makes it, and code needs no place for faults.
"""

from __future__ import annotations

import builtins
import errno
import io
import os
import threading
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal
from unittest.mock import patch

DiskOperationKind = Literal["open", "sync", "rename", "make", "remove"]


@dataclass(frozen=True, slots=True)
class DiskOperation:
    """One request to the disk.

    Attributes:
        number: from 1, in the order they came.
        path: what it is about; a rename's new name.
    """

    number: int
    kind: DiskOperationKind
    path: str


@dataclass(frozen=True, slots=True)
class DiskFault:
    """When a disk fails, and how.

    Attributes:
        at: the first operation that fails, from 1.
        is_lasting: whether all later ones fail too, as on a full disk; else that one alone.
        error: the number of the error (``errno.ENOSPC``, ``EROFS``, ``EIO``, ``EMFILE`` ...).
    """

    at: int
    is_lasting: bool = False
    error: int = errno.ENOSPC


class WatchedDisk:
    """Notes what is asked of the disk below a directory while the block runs, and fails as ``fault`` says.

    A file whose fsync fails keeps half of what was written since its last one, as a full disk would leave it. One block at a time.

    Args:
        under: operations elsewhere are neither counted nor failed.
        fault: ``None`` only counts.
    """

    def __init__(self, under: Path, fault: DiskFault | None = None) -> None:
        self.operations: list[DiskOperation] = []
        self._under = under.resolve()
        self._fault = fault
        self._lock = threading.Lock()
        self._durable: dict[Path, int] = {}
        self._patches = ExitStack()

    def __enter__(self) -> WatchedDisk:
        for kind, module, names in (
            ("make", os, ("mkdir",)), ("rename", os, ("rename", "replace")), ("remove", os, ("unlink", "remove", "rmdir")),
        ):  # fmt: skip
            for name in names:
                self._patches.enter_context(patch.object(module, name, self._watched(kind, getattr(module, name))))
        opening = self._opening(io.open)
        for module in (io, builtins):
            self._patches.enter_context(patch.object(module, "open", opening))
        self._patches.enter_context(patch.object(os, "fsync", self._syncing(os.fsync)))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._patches.close()

    def _watched(self, kind: Any, call: Callable[..., Any]) -> Callable[..., Any]:
        def watched(*paths: Any, **options: Any) -> Any:
            path = paths[1 if kind == "rename" else 0]
            if options.get("dir_fd") is None and isinstance(path, str | os.PathLike):
                self._meet(kind, path)
            return call(*paths, **options)

        return watched

    def _opening(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def opening(file: Any, mode: str = "r", *rest: Any, **options: Any) -> Any:
            if set(mode) & set("wax+") and isinstance(file, str | os.PathLike):
                self._meet("open", file)
            return call(file, mode, *rest, **options)

        return opening

    def _syncing(self, call: Callable[[int], None]) -> Callable[[int], None]:
        def syncing(descriptor: int) -> None:
            path = Path(f"/proc/self/fd/{descriptor}").readlink()
            try:
                self._meet("sync", path)
            except OSError:
                self._tear(path)
                raise
            call(descriptor)
            if path.is_file():
                self._durable[path] = path.stat().st_size

        return syncing

    def _tear(self, path: Path) -> None:
        if path.is_file():
            durable, size = self._durable.get(path, 0), path.stat().st_size
            os.truncate(path, durable + max(0, size - durable) // 2)

    def _meet(self, kind: DiskOperationKind, path: Any) -> None:
        place = Path(path).parent.resolve() / Path(path).name
        if not place.is_relative_to(self._under):
            return
        with self._lock:
            number = len(self.operations) + 1
            self.operations.append(DiskOperation(number, kind, str(place)))
        fault = self._fault
        if fault is not None and (number == fault.at or (fault.is_lasting and number > fault.at)):
            raise OSError(fault.error, os.strerror(fault.error), str(path))
