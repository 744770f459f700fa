"""Digests of files as they were written, and what is wrong with those that lie there now."""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

WEIGHT_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".gguf", ".h5", ".msgpack", ".onnx")


@dataclass(frozen=True, slots=True)
class FileDigest:
    """What was written to a file."""

    num_bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class FileFault:
    """A file that is not what was written, by its name in the directory that was looked at."""

    file: str
    why: str

    def __str__(self) -> str:
        return f"{self.file} {self.why}"


class DigestedFile:
    """A file that is written once, from its start to its end, and digested on the way: what the disk made of it is not asked."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self._sha256, self._num_bytes = file, hashlib.sha256(), 0
        self.error: OSError | None = None

    def write(self, content: bytes) -> int:
        """Append. Keeps the error of a full disk, which a vendor's writer may replace by one of its own."""
        try:
            self._file.write(content)
        except OSError as error:
            self.error = error
            raise
        self._sha256.update(content)
        self._num_bytes += memoryview(content).nbytes
        return memoryview(content).nbytes

    def flush(self) -> None:
        """Hand it to the system."""
        self._file.flush()

    def digest(self) -> FileDigest:
        """Of what was written so far."""
        return FileDigest(self._num_bytes, self._sha256.hexdigest())


@contextmanager
def digested_file(path: Path) -> Iterator[DigestedFile]:
    """A new file, on disk when the block has ended.

    Raises:
        OSError: it could not be written; this error, whatever the block made of it.
    """
    with path.open("wb") as file:
        written = DigestedFile(file)
        try:
            yield written
        except Exception as error:
            if written.error is not None:
                raise written.error from error
            raise
        file.flush()
        os.fsync(file.fileno())


def digest_file(path: Path) -> FileDigest:
    """Of a file that is there.

    Raises:
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        return FileDigest(file.tell(), digest)


def raise_if_exhausted(error: Exception) -> None:
    """Raises OSError where it is the process that lacks file handles or memory: that says nothing of the file.

    safetensors and torch tell the system's errors in classes of their own, with their number in the text.
    """
    number = error.errno if isinstance(error, OSError) else None
    for lacking in (errno.EMFILE, errno.ENFILE, errno.ENOMEM):
        why, told = os.strerror(lacking), str(error)
        if number == lacking or f"(os error {lacking})" in told or f"{why} ({lacking})" in told:
            raise OSError(lacking, why) from error


def file_faults(directory: Path, expected: Mapping[str, FileDigest]) -> tuple[FileFault, ...]:
    """What is wrong with files of a directory; nothing when each is there as it was written. Others are not looked at."""
    return tuple(
        FileFault(name, why)
        for name, digest in sorted(expected.items())
        if (why := _why_not(directory / name, digest)) is not None
    )


def _why_not(path: Path, expected: FileDigest) -> str | None:
    try:
        num_bytes = path.stat().st_size
        if num_bytes != expected.num_bytes:  # without reading it
            return f"has {num_bytes:,} bytes, {expected.num_bytes:,} were written"
        found = digest_file(path)
    except FileNotFoundError:
        return "is not there"
    except OSError as error:
        raise_if_exhausted(error)
        return f"cannot be read: {error.strerror or error}"
    return None if found == expected else "is not what was written (its sha256 differs)"


def companion_digests(path: str) -> dict[str, str]:
    """sha256 of a snapshot's files that are no weights (config, tokenizer, chat template), by name."""
    folder = Path(path)
    return {
        str(file.relative_to(folder)): digest_file(file).sha256
        for file in sorted(folder.rglob("*"))
        if file.is_file() and not file.name.endswith(WEIGHT_SUFFIXES)
    }


def companion_faults(path: str, files: Mapping[str, str]) -> tuple[FileFault, ...]:
    """What is wrong with a snapshot's files that are no weights; files that have no digest are not looked at."""
    faults = []
    for name, digest in sorted(files.items()):
        try:
            if digest_file(Path(path, name)).sha256 != digest:
                faults.append(FileFault(name, "is not what was written"))
        except OSError as error:
            raise_if_exhausted(error)
            faults.append(FileFault(name, f"cannot be read: {error.strerror or error}"))
    return tuple(faults)
