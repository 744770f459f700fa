"""Prompts from tables made elsewhere: JSON lines, Parquet, and whatever ``datasets`` loads (a hub id or a directory).

A :class:`Columns` says which column is what. A name with dots reaches into objects (``reward_model.ground_truth``); a
column whose own name has the dots comes first.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from bcpg_cluster.errors import DataError, HubError
from bcpg_cluster.prompts.hub import is_hub_id, local_copies_only, near_paths, why_no_answer
from bcpg_cluster.records import Prompt

Row = Mapping[str, Any]
_SOURCES = "a source is a file, a directory or a hub id (name or org/name)"


@dataclass(frozen=True, slots=True)
class Columns:
    """Which column holds what; without ``prompt_id`` prompts are numbered by their row, from 0."""

    question: str = "question"
    answer: str = "answer"
    prompt_id: str | None = None


def read_rows(
    source: str,
    *,
    split: str | None = None,
    config_name: str | None = None,
    revision: str | None = None,
    data_files: tuple[str, ...] = (),
) -> Iterable[Row]:
    """All rows of a table, in order. Those of ``datasets`` are read as they are asked for (some sets are gigabytes).

    Args:
        source: a ``.jsonl`` or ``.parquet`` file, a directory that ``datasets`` wrote or can load, or a hub id.
        split: which split of a data set; may be left out where there is only one.
        config_name: which configuration of a hub data set.
        revision: a branch, tag or commit of a hub data set.
        data_files: files of a hub data set (JSON lines) to read instead of what the hub would make of it.

    Raises:
        DataError: it does not exist, cannot be read, or has several splits and none was named.
    """
    path = Path(source).expanduser()
    if path.suffix in (".jsonl", ".json", ".parquet") or path.is_file():
        if not path.is_file():
            raise _missing(source)
        return _parquet_rows(path) if path.suffix == ".parquet" else _json_rows(path)
    if not path.is_dir() and not is_hub_id(source):
        raise _missing(source)
    return _dataset_rows(source, path if path.is_dir() else None, split, config_name, revision, data_files)


def prompts_from_rows(rows: Iterable[Row], columns: Columns, source: str) -> list[Prompt]:
    """One prompt a row.

    Raises:
        DataError: a mapped column is missing (names those there are), a value is empty or no text or number, or an id repeats.
    """
    prompts: list[Prompt] = []
    first_row: dict[str, int] = {}
    stem = Path(source).stem
    for number, row in enumerate(rows):
        where = f"{source}, row {number}"
        prompt_id = text_of(row, columns.prompt_id, where) if columns.prompt_id else f"{stem}-{number}"
        if prompt_id in first_row:
            raise DataError(
                f"{where}: {columns.prompt_id} {prompt_id!r} was used in row {first_row[prompt_id]}",
                rule="prompt ids are unique in a data set",
                remedy="map another column to prompt_id, or none: rows are numbered then",
            )
        first_row[prompt_id] = number
        prompts.append(Prompt(prompt_id, text_of(row, columns.question, where), text_of(row, columns.answer, where)))
    if not prompts:
        raise DataError(
            f"{source} holds no row", rule="a data set has at least one prompt", remedy="choose another split"
        )
    return prompts


def read_mapped_prompts(
    source: str,
    columns: Columns,
    *,
    split: str | None = None,
    config_name: str | None = None,
    revision: str | None = None,
    limit: int | None = None,
) -> list[Prompt]:
    """The prompts of a table (its first ``limit``); see :func:`read_rows` and :func:`prompts_from_rows`."""
    rows = read_rows(source, split=split, config_name=config_name, revision=revision)
    return prompts_from_rows(islice(rows, limit), columns, source)


def value_of(row: Row, column: str, where: str) -> Any:
    """What a column holds. Raises :class:`DataError`, naming the known columns, when it is missing."""
    if column in row:
        return row[column]
    value: Any = row
    for part in column.split("."):
        if not isinstance(value, Mapping) or part not in value:
            raise DataError(
                f"{where}: no column {column!r}; known: {', '.join(map(str, row)) or 'none'}",
                rule="the column mapping names columns of the data set (a.b reaches into objects)",
                remedy="correct the mapping, e.g. question: problem",
            )
        value = value[part]
    return value


def text_of(row: Row, column: str, where: str) -> str:
    """A column's value as text. Raises :class:`DataError` where it is empty, or neither a text nor a number."""
    value = value_of(row, column, where)
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)  # NaN: a gap
    if not is_number and not (isinstance(value, str) and value.strip()):
        raise DataError(
            f"{where}: column {column!r} is {value!r:.80}",
            rule="question, answer and prompt_id are texts or numbers and not empty",
            remedy="map another column, or leave the row out",
        )
    return str(value)


def _json_rows(path: Path) -> list[dict[str, Any]]:
    rows = []
    try:
        lines = path.read_text(encoding="utf-8").split("\n")  # not splitlines: strings may hold U+2028 and the like
        for number, line in enumerate(lines, start=1):
            if line.strip():
                row = json.loads(line)
                if not isinstance(row, dict):
                    raise _unreadable(f"{path}, line {number}", f"a {type(row).__name__}", "a line is a JSON object")
                rows.append(row)
    except json.JSONDecodeError as error:
        raise _unreadable(f"{path}, line {number}", f"not JSON: {error}", "a line is a JSON object") from None
    except UnicodeDecodeError as error:
        raise _unreadable(str(path), f"not UTF-8: {error}", "JSON lines are UTF-8 text") from None
    return rows


def _parquet_rows(path: Path) -> list[dict[str, Any]]:
    import pyarrow
    from pyarrow import parquet

    try:
        rows: list[dict[str, Any]] = parquet.read_table(path).to_pylist()
    except (pyarrow.ArrowException, OSError) as error:
        raise _unreadable(str(path), str(error), "a .parquet file is Apache Parquet") from None
    return rows


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
