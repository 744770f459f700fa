"""Decoded files: made from accepted shards, whole or not at all, and checked when they are opened.

Their names say what they were made from, so ranks of one machine share them: the first that wants one makes it, and where two do
at once, both make the same. They lie on a disk because pages of a file are shared and may be dropped, which a rank's own memory
may not. Rows are read, not mapped: a disk that fails is then an error, not the end of the process.
"""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from bcpg_cluster.errors import EngineError, RunDirectoryError
from bcpg_cluster.store.whole_files import what_helps

_DIGEST_BYTES = hashlib.sha256().digest_size


def decoded_content(path: Path, make: Callable[[], bytes]) -> bytes:
    """What is in the file, after it was made where it is missing or not what was written.

    Raises:
        RunDirectoryError: the disk does not take it.
    """
    content = _whole(path)
    if content is None:
        content = make()
        _write(path, content)
    return content


def read_part(path: Path, start: int, end: int) -> bytes:
    """The bytes from ``start`` to ``end`` of an opened file's content.

    Raises:
        EngineError: they are not there any more; another try opens it anew.
    """
    try:
        with path.open("rb", buffering=0) as file:
            found = os.pread(file.fileno(), end - start, start)
    except OSError as error:
        raise EngineError(f"decoded rows could not be read from {path}: {error.strerror or error}") from error
    if len(found) != end - start:
        raise EngineError(f"decoded rows could not be read from {path}: it ends before byte {end}")
    return found


def _whole(path: Path) -> bytes | None:
    try:
        data = path.read_bytes()
    except OSError:
        return None  # whoever cannot read it makes it
    content, digest = data[:-_DIGEST_BYTES], data[-_DIGEST_BYTES:]
    return content if hashlib.sha256(content).digest() == digest else None


def _write(path: Path, content: bytes) -> None:
    """Without fsync: what a power cut leaves of it does not have its digest."""
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("wb") as file:
            file.write(content)
            file.write(hashlib.sha256(content).digest())
        partial.rename(path)
    except OSError as error:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
        raise RunDirectoryError(
            f"decoded rows could not be written to {path}: {error.strerror or error}",
            rule="a training's rows lie decoded on a disk of every trainer's machine, some 13 bytes a token of the round",
            remedy=f"{what_helps(error)}, and run the same command again",
        ) from error
