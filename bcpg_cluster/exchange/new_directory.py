"""Where exports and imports go: a new directory, which appears whole or not at all."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bcpg_cluster.errors import DataError
from bcpg_cluster.store.whole_files import place_problem, whole_directory


@contextmanager
def new_directory(target: Path) -> Iterator[Path]:
    """A directory to fill; it gets ``target``'s name when the block ends well, and is removed when it does not.

    Raises:
        DataError: ``target`` already exists and is not an empty directory.
    """
    target = target.absolute()
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise DataError(
            f"{target} already exists",
            rule="exports and imports create a new directory and never write into one that holds files",
            remedy="give another directory, or remove this one",
        )
    if problem := place_problem(target):
        raise DataError(
            f"{target} cannot be made: {problem}",
            rule="exports and imports create a new directory",
            remedy="give a directory below one that can be written",
        )
    with whole_directory(target) as staging:
        yield staging
