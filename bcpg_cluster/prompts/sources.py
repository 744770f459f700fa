"""Prompts from tables made elsewhere: files of rows, and whatever ``datasets`` loads (a hub id or a directory).

A :class:`Columns` says which column is what. A name with dots reaches into objects and lists (``reward_model.ground_truth``,
``messages.0.content``); a column whose own name has the dots comes first. The question may be a text or a chat of one user
message, as verl and TRL have it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from bcpg_cluster.errors import DataError, HubError
from bcpg_cluster.prompts.bad_rows import Unit
from bcpg_cluster.prompts.columns import Columns, ReadPrompts, map_prompts
from bcpg_cluster.prompts.hub import is_hub_id, local_copies_only, near_paths, why_no_answer
from bcpg_cluster.prompts.table_files import Fault, PlacedRow, Row, is_table_file, table_rows

_SOURCES = "a source is a file, a directory or a hub id (name or org/name)"


@dataclass(frozen=True, slots=True)
class Table:
    """The rows of a source, in order, and how their places are counted."""

    unit: Unit
    rows: Iterator[PlacedRow]


def read_table(
    source: str,
    *,
    split: str | None = None,
    config_name: str | None = None,
    revision: str | None = None,
    data_files: tuple[str, ...] = (),
) -> Table:
    """All rows of a table with their places, read as they are asked for (some sets are gigabytes).

    Args:
        source: a file of rows (``table_files.FORMATS``), a directory that ``datasets`` wrote or can load, or a hub id.
        split: which split of a data set; may be left out where there is only one.
        config_name: which configuration of a hub data set.
        revision: a branch, tag or commit of a hub data set.
        data_files: files of a hub data set (JSON lines) to read instead of what the hub would make of it.

    Raises:
        DataError: it does not exist, cannot be read, or has several splits and none was named.
    """
    path = Path(source).expanduser()
    if is_table_file(path) or path.is_file():
        if not path.is_file():
            raise _missing(source)
        return Table(*table_rows(path))
    if not path.is_dir() and not is_hub_id(source):
        raise _missing(source)
    rows = _dataset_rows(source, path if path.is_dir() else None, split, config_name, revision, data_files)
    return Table("row", (PlacedRow(number, row) for number, row in enumerate(rows)))


def read_rows(
    source: str,
    *,
    split: str | None = None,
    config_name: str | None = None,
    revision: str | None = None,
    data_files: tuple[str, ...] = (),
) -> Iterator[Row]:
    """The rows of a table where every one is needed; see :func:`read_table`.

    Raises:
        DataError: as there; while rows are asked for, one cannot be read.
    """
    table = read_table(source, split=split, config_name=config_name, revision=revision, data_files=data_files)
    return _whole_rows(source, table)


def _whole_rows(source: str, table: Table) -> Iterator[Row]:
    for row in table.rows:
        if isinstance(row.content, Fault):
            found = row.content
            raise DataError(
                f"{source}, {table.unit} {row.number} cannot be read: {found.problem}",
                rule=found.rule,
                remedy=found.remedy,
            )
        yield row.content


def read_mapped_prompts(
    source: str,
    columns: Columns,
    *,
    split: str | None = None,
    config_name: str | None = None,
    revision: str | None = None,
    limit: int | None = None,
) -> ReadPrompts:
    """The prompts of a table's first ``limit`` rows, and the rows that are none; see :func:`read_table`."""
    table = read_table(source, split=split, config_name=config_name, revision=revision)
    return map_prompts(islice(table.rows, limit), columns, source, table.unit)


def _dataset_rows(
    source: str,
    directory: Path | None,
    split: str | None,
    config_name: str | None,
    revision: str | None,
    data_files: tuple[str, ...],
) -> Iterable[Row]:
    import datasets

    saved = directory is not None and any((directory / name).is_file() for name in ("state.json", "dataset_dict.json"))
    no_answer = None if directory else why_no_answer(dataset=source)
    try:
        with local_copies_only() if no_answer else nullcontext():
            if saved:
                loaded = datasets.load_from_disk(str(directory))
            elif data_files:
                root = str(directory) if directory else f"hf://datasets/{source}" + (f"@{revision}" if revision else "")
                # By the files: the hub's loading scripts are no longer run by `datasets` 4 and later.
                loaded = datasets.load_dataset("json", data_files={"train": [f"{root}/{name}" for name in data_files]})
                split = "train"
            else:
                loaded = datasets.load_dataset(str(directory or source), config_name, revision=revision)
    # `datasets` raises its own errors, OSError, ValueError, RuntimeError and the hub client's for a source it cannot load.
    except Exception as error:
        problem = f"{type(error).__name__}: {error}"
        if no_answer:
            problem = f"the hub does not answer ({no_answer}), and it was not fetched earlier: {problem}"
        if directory is None:
            problem = f"no file or directory of that name is here; {problem}"
            raise _unreadable(source, problem, _SOURCES, near_paths(source), HubError) from None
        raise _unreadable(source, problem, _SOURCES) from None
    if isinstance(loaded, datasets.Dataset):
        return loaded
    splits = list(loaded)
    if split is None and len(splits) == 1:
        split = splits[0]
    if split not in splits:
        raise DataError(
            f"{source} has no split {split!r}; known: {', '.join(splits)}",
            rule="a data set with several splits needs one named",
            remedy=f"split: {splits[0]}",
        )
    rows: Iterable[Row] = loaded[split]
    return rows


def _missing(source: str) -> DataError:
    return _unreadable(source, "it does not exist", _SOURCES, near_paths(source))


def _unreadable(source: str, problem: str, rule: str, remedy: str = "", kind: type[DataError] = DataError) -> DataError:
    return kind(
        f"{source} cannot be read: {problem:.600}",
        rule=rule,
        remedy=remedy
        or "correct the name; without a network, give the path of a file or directory you have downloaded",
    )
