"""A data set as others load it: Parquet files beside a card that says which file is which split.

``datasets.load_dataset(DIRECTORY)`` and the Hugging Face hub read the splits from the card's YAML head
(https://huggingface.co/docs/hub/datasets-manual-configuration).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from bcpg_cluster.errors import DataError
from bcpg_cluster.exchange.new_directory import new_directory
from bcpg_cluster.store.rows import Row

CARD = "README.md"


@dataclass(frozen=True, slots=True)
class Column:
    """A column: its name, its Arrow type, and what it says (a line of the card's table)."""

    name: str
    type: pa.DataType
    meaning: str


@dataclass(frozen=True, slots=True)
class DataFile:
    """One Parquet file of a split. ``batches`` are read once and written one after the other, so only one is held."""

    split: str
    path: str
    batches: Iterable[Sequence[Row]]


@dataclass(frozen=True, slots=True)
class Card:
    """What a card says beside its columns.

    Attributes:
        title: of the page, and the hub's ``pretty_name``.
        about: paragraphs, in Markdown.
        tags: for the hub.
        facts: where the data come from; a line each.
    """

    title: str
    about: str
    tags: tuple[str, ...] = ()
    facts: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Written:
    """What was written: rows by split."""

    directory: Path
    rows: dict[str, int]


def write_dataset(out: Path, files: Sequence[DataFile], columns: Sequence[Column], card: Card) -> Written:
    """Write the files and the card into a new directory, whole or not at all.

    Raises:
        DataError: there is not one row, or the directory is not empty.
    """
    schema = pa.schema([pa.field(column.name, column.type) for column in columns])
    rows = {file.split: 0 for file in files}
    with new_directory(out) as staging:
        for file in files:
            rows[file.split] += _write_parquet(staging / file.path, schema, file.batches)
        if not any(rows.values()):
            raise DataError(
                f"there is nothing to export as {card.title!r}",
                rule="an exported data set holds at least one row",
                remedy="choose rounds that hold such data; `bcpg-cluster status` shows what a run has",
            )
        (staging / CARD).write_text(render_card(card, columns, files, rows), encoding="utf-8")
    return Written(out, rows)


def _write_parquet(path: Path, schema: pa.Schema, batches: Iterable[Sequence[Row]]) -> int:
    """Write one file, a row group for each batch; the number of rows."""
    path.parent.mkdir(parents=True, exist_ok=True)
    number = 0
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        for batch in batches:
            if batch:
                writer.write_table(pa.Table.from_pylist(list(batch), schema=schema))
                number += len(batch)
    return number


def render_card(card: Card, columns: Sequence[Column], files: Sequence[DataFile], rows: Mapping[str, int]) -> str:
    """The page: YAML head, text, columns, origin."""
    splits: dict[str, list[str]] = {}
    for file in files:
        splits.setdefault(file.split, []).append(file.path)
    head: dict[str, Any] = {"pretty_name": card.title}
    if card.tags:
        head["tags"] = list(card.tags)
    data_files = [{"split": split, "path": paths} for split, paths in splits.items()]
    head["configs"] = [{"config_name": "default", "data_files": data_files}]
    lines = [front_matter(head), f"# {card.title}", "", card.about.strip(), "", "## Rows", ""]
    lines += [f"- `{split}`: {number}" for split, number in rows.items()]
    lines += ["", "## Columns", "", "| column | type | meaning |", "|---|---|---|"]
    lines += [f"| `{column.name}` | `{column.type}` | {column.meaning} |" for column in columns]
    lines += ["", "## Origin", ""]
    lines += [f"- {name}: {value}" for name, value in card.facts.items()]
    return "\n".join(lines) + "\n"


def front_matter(content: Mapping[str, Any]) -> str:
    """The YAML head of a card."""
    return f"---\n{yaml.safe_dump(dict(content), sort_keys=False, allow_unicode=True)}---\n"
