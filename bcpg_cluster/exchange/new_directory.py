"""A directory that appears whole or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bcpg_cluster.errors import DataError


@contextmanager
def new_directory(target: Path) -> Iterator[Path]:
    """A directory to fill; it gets ``target``'s name when the block ends well, and is removed when it does not.

    Raises:
        DataError: ``target`` is there already and is not an empty directory.
    """
    target = target.absolute()
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise DataError(
            f"{target} is there already",
            rule="exports and imports make a new directory and never write into one that holds something",
            remedy="give another directory, or remove this one",
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    # Beside the target, since a rename is atomic only within one file system.
    staging = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".tmp", dir=target.parent))
    try:
        staging.chmod(0o755)  # mkdtemp's 0700 would hide the result from other users
        yield staging
        _sync(staging)
        staging.rename(target)  # takes the place of an empty directory too
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise


def _sync(directory: Path) -> None:
    """Bring all to disk before it is named."""
    for path in [*directory.rglob("*"), directory]:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
