"""Local copies of what engines read: vLLM, transformers and DeepSpeed want directories of this machine.

A snapshot is written to local disk first, then put into the store; members that need it fetch it once a machine. A directory
in a store begins to count when a record names it; its ``files.json``, put last, says which files belong to it and what is in them.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bcpg_cluster.errors import StoreError
from bcpg_cluster.store.path import RunPath, StoredPath, read_json
from bcpg_cluster.store.whole_files import whole_directory

FILES = "files.json"
CACHE_VARIABLE = "BCPG_CLUSTER_CACHE"
_NUM_KEPT = 2  # of a run: the snapshot that is served (and trained from), and the one that takes its place


def cache_directory() -> Path:
    """Where copies are kept on this machine: ``$BCPG_CLUSTER_CACHE``, else ``~/.cache/bcpg-cluster``."""
    return Path(os.environ.get(CACHE_VARIABLE) or "~/.cache/bcpg-cluster").expanduser()


def run_cache(run_dir: StoredPath) -> Path:
    """This machine's directory for a run; different runs never meet there."""
    return cache_directory() / hashlib.sha256(run_dir.url.encode()).hexdigest()[:16]


@contextmanager
def local_staging() -> Iterator[Path]:
    """An empty directory on the disk of the cache, gone afterwards unless it was moved away."""
    cache_directory().mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=".staging.", dir=cache_directory()))
    try:
        yield staging
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def put_directory(source: Path, target: StoredPath) -> None:
    """Put a directory's files into the store, the list of them last. ``source`` then becomes this machine's copy of ``target``."""
    files = {}
    for path in sorted(path for path in source.rglob("*") if path.is_file()):
        name = path.relative_to(source).as_posix()
        (target / name).upload(path)
        files[name] = {"bytes": path.stat().st_size, "sha256": _digest(path)}
    (target / FILES).write(json.dumps(files, indent=1, sort_keys=True).encode())
    copy = _copy_of(target, files)
    with _alone(copy):
        if not copy.exists():
            source.rename(copy)
            _keep_newest(copy)


def local_copy(place: str | RunPath) -> str:
    """The directory of this machine that holds what lies at ``place``; what is local already (or a hub id) stays what it is.

    Raises:
        StoreError: there is no whole directory at ``place``.
    """
    if not isinstance(place, StoredPath):
        return str(place)
    files = read_json(place / FILES)
    if not isinstance(files, dict):
        raise StoreError(f"{place} is not there, or not whole: it has no {FILES}")
    copy = _copy_of(place, files)
    with _alone(copy):
        if not copy.exists():
            with whole_directory(copy) as staging:
                for name, facts in files.items():
                    _fetch(place / name, staging / name, facts)
        os.utime(copy)
        _keep_newest(copy)
    return str(copy)


def take_newest(target: Path) -> None:
    """Move the newest directory beside ``target`` to its name, unless it has one; members of one machine do it once."""
    with _alone(target):
        beside = [path for path in target.parent.iterdir() if path.is_dir()]
        if beside and not target.exists():
            max(beside, key=lambda path: path.stat().st_mtime).rename(target)


def _fetch(source: StoredPath, target: Path, facts: dict[str, Any]) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        source.download(target)
    except FileNotFoundError:
        raise StoreError(f"{source} is not there, though {FILES} beside it names it") from None
    if target.stat().st_size != facts["bytes"] or _digest(target) != facts["sha256"]:
        raise StoreError(f"{source} is not the file that was put there (its digest differs)")


def _copy_of(place: StoredPath, files: dict[str, Any]) -> Path:
    """Named by content: what was altered in the store is never served from an older copy."""
    digest = hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()[:24]
    run = place.url.rpartition("/snapshots/")[0] or place.url
    return run_cache(StoredPath(run)) / "snapshots" / digest


@contextmanager
def _alone(copy: Path) -> Iterator[None]:
    """Members of one machine that want the same wait for the one that fetches it."""
    copy.parent.mkdir(parents=True, exist_ok=True)
    with (copy.parent / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _keep_newest(copy: Path) -> None:
    """Drop the copies of the run that were used longest ago; ``copy`` was used now."""
    copies = [
        path for path in copy.parent.iterdir() if path.is_dir() and path != copy and not path.name.startswith(".")
    ]
    for old in sorted(copies, key=lambda path: path.stat().st_mtime, reverse=True)[_NUM_KEPT - 1 :]:
        shutil.rmtree(old, ignore_errors=True)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
