"""Files and directories that appear under their name whole or not at all: a temporary name, fsync, rename.

In an object store a put is whole by itself (``store.path``); these functions take both kinds of place where a run needs both.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from bcpg_cluster.store.path import RunPath, StoredPath

_ASIDE = re.compile(r"\.damaged(-\d+)?\Z")


def write_whole(path: RunPath, content: bytes) -> None:
    """Write a file, in the place of one that is there. What a killed process leaves is called ``.<name>.<pid>.partial``."""
    if isinstance(path, StoredPath):
        path.write(content)
        return
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    with naming(path):
        try:
            with partial.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            partial.rename(path)
        except BaseException:
            with suppress(OSError):  # what failed may fail again, and is what there is to tell
                partial.unlink(missing_ok=True)
            raise


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """An error of the disk names ``path``, which people know: writes and fsync name no file, renames one of a passing name."""
    try:
        yield
    except OSError as error:
        error.filename, error.filename2 = str(path), None
        raise


def what_helps(error: OSError) -> str:
    """What lets a file be written there that was not: the beginning of a remedy."""
    lacks_handles = error.errno in (errno.EMFILE, errno.ENFILE)
    return "raise the limit of open files (`ulimit -n`) there" if lacks_handles else "make room there"


def place_problem(path: Path) -> str | None:
    """Why a file or directory at ``path`` cannot be made or written; ``None`` where nothing speaks against it. Writes nothing."""
    for place in (path, *path.parents):
        try:
            kind = place.stat().st_mode
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            return f"{place}: {error.strerror}"
        if not stat.S_ISDIR(kind):
            return f"{place} is a file" if place != path else None
        if os.statvfs(place).f_flag & os.ST_RDONLY:
            return f"{place} is on a read-only file system"
        if not os.access(place, os.W_OK | os.X_OK):
            return f"{place} may not be written by this user"
        return None
    return None


def make_parents(path: RunPath) -> None:
    """Have the directories that ``path`` lies in; an object store needs none."""
    if isinstance(path, Path):
        path.parent.mkdir(parents=True, exist_ok=True)


def take_away(path: RunPath) -> bool:
    """Delete a file; False when another process has. Of two who try at once one is told True (in an object store perhaps both)."""
    if isinstance(path, StoredPath):
        was_there = path.exists()
        path.remove_tree()
        return was_there
    try:
        path.unlink()
    except FileNotFoundError:
        return False
    return True


def is_set_aside(name: str) -> bool:
    """Whether a file was set aside."""
    return _ASIDE.search(name) is not None


def set_aside(run_dir: RunPath, path: str) -> str | None:
    """Rename a file of a run; its new path, relative to the run, or ``None`` where there is none to rename."""
    if not (run_dir / path).exists():
        return None
    name, number = f"{path}.damaged", 2
    while (run_dir / name).exists():
        name, number = f"{path}.damaged-{number}", number + 1
    source, target = run_dir / path, run_dir / name
    if isinstance(source, StoredPath):
        (run_dir / name).write(source.read_bytes())  # type: ignore[union-attr]
        source.remove_tree()
    else:
        source.rename(target)  # type: ignore[arg-type]
    return name


def remove_tree(path: RunPath) -> None:
    """Delete a directory with all that is in it, as far as it is there."""
    if isinstance(path, StoredPath):
        path.remove_tree()
    else:
        shutil.rmtree(path, ignore_errors=True)


@contextmanager
def whole_directory(target: Path) -> Iterator[Path]:
    """A directory to fill; it gets ``target``'s name when the block ends well, and is removed when it does not.

    A directory that has the name already is replaced.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    # Beside the target, since a rename is atomic only within one file system.
    staging = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".tmp", dir=target.parent))
    try:
        staging.chmod(0o755)  # mkdtemp's 0700 would hide the result from other users
        yield staging
        _sync(staging)
        _replace(staging, target)
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise


def _sync(directory: Path) -> None:
    """Bring all to disk before it is named: a power cut must not leave a named, empty directory."""
    for path in [*directory.rglob("*"), directory]:
        _sync_one(path)


def sync_directory(directory: Path) -> None:
    """Bring the names in it to disk: what was made or renamed there stays so after a power cut."""
    _sync_one(directory)


def _sync_one(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _replace(staging: Path, target: Path) -> None:
    """Put ``staging`` under ``target``'s name; a directory cannot be renamed over a full one, so that steps aside."""
    if target.exists():
        old = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".old", dir=target.parent))
        try:
            target.rename(old / "replaced")
            try:
                staging.rename(target)
            except OSError:
                (old / "replaced").rename(target)
                raise
        finally:
            shutil.rmtree(old, ignore_errors=True)
    else:
        staging.rename(target)
