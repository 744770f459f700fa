"""Problems for a first config: which table, which columns, and a test set split off where there is none."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from bcpg_cluster.config.embedded import resolve_asset
from bcpg_cluster.errors import DataError
from bcpg_cluster.new_config.columns import guess_columns, value_at
from bcpg_cluster.new_config.facts import DataFacts
from bcpg_cluster.prompts.columns import question_of
from bcpg_cluster.prompts.files import read_prompts
from bcpg_cluster.prompts.sources import read_rows
from bcpg_cluster.prompts.tasks.registry import TASK
from bcpg_cluster.store.whole_files import write_whole

MOST_ROWS = 200_000  # of a table that is read here
_SHOWN = 200  # rows that guesses rest on
_TEST_SHARE, _MOST_TEST, _LEAST_TEST = 0.1, 200, 8


@dataclass(frozen=True, slots=True)
class SplitFiles:
    """Where a test set is to be split off, and what goes where; written only once the config is known to be good."""

    train: Path
    test: Path
    train_rows: list[Mapping[str, Any]]
    test_rows: list[Mapping[str, Any]]

    def write(self) -> None:
        """Both files, each whole or not at all."""
        for path, rows in ((self.train, self.train_rows), (self.test, self.test_rows)):
            lines = [json.dumps(dict(row), ensure_ascii=False, default=str) for row in rows]
            write_whole(path, "".join(f"{line}\n" for line in lines).encode())


def read_data(
    train: str, test: str | None, said: Mapping[str, str], folder: Path
) -> tuple[DataFacts, SplitFiles | None, list[str]]:
    """The problems, files to write where a test set is split off, and lines for people.

    Args:
        said: columns that are known, by our names.
        folder: of files that are written.

    Raises:
        DataError: a source cannot be read, or no column looks like a question or an answer.
    """
    if train.startswith((TASK, "embedded:")):
        return _ready_made(train, test)
    train_place, (rows, split) = _place(train), _rows(train, ("train",))
    shown = _spread(rows)
    columns, told = guess_columns(shown, said, train)
    more_keys = {"train_split": split} if split else {}
    if test is None and split is not None:
        test_rows, test_split = _rows(train, ("test", "validation"))
        test_place, files = train_place, None
        more_keys["test_split"] = test_split or "test"
        told.append(f"test set: the split {test_split!r} of {train}")
    elif test is None:
        files = _split_off(train, rows, columns["question"], folder)
        rows, test_rows, more_keys = files.train_rows, files.test_rows, {}
        train_place, test_place = str(files.train), str(files.test)
        told.append(
            f"test set: {len(test_rows)} of the problems, drawn at random, since no --test was given; the rest is trained on"
        )
    else:
        (test_rows, test_split), test_place, files = _rows(test, ("test", "validation")), _place(test), None
        more_keys |= {"test_split": test_split} if test_split else {}
    if "prompt_id" in columns and "prompt_id" not in said and not _are_unique(rows, test_rows, columns["prompt_id"]):
        told = [line for line in told if not line.startswith("prompt_id")]
        del columns["prompt_id"]
    facts = DataFacts(
        train_place, test_place, columns, len(rows), len(test_rows),
        tuple(question_of(row, columns["question"], train) for row in rows), tuple(_texts(shown, columns["answer"])), more_keys,
    )  # fmt: skip
    return facts, files, told


def _ready_made(train: str, test: str | None) -> tuple[DataFacts, None, list[str]]:
    if train.startswith(TASK):
        told = [] if test else [f"test set: {train}'s own"]
        return DataFacts(train, test or train, None, MOST_ROWS, MOST_ROWS, (), ()), None, told
    test = test or train.replace("train", "test")
    sets = [read_prompts(resolve_asset(source)) for source in (train, test)]
    questions = tuple(prompt.question for prompt in sets[0])
    golds = tuple(prompt.answer for prompt in _spread(sets[0]))
    return DataFacts(train, test, None, len(sets[0]), len(sets[1]), questions, golds), None, [f"test set: {test}"]


def _place(source: str) -> str:
    path = Path(source).expanduser()
    return str(path.absolute()) if path.exists() else source


def _rows(source: str, splits: Sequence[str]) -> tuple[list[Mapping[str, Any]], str | None]:
    """A table's rows, and the split they are of where it has several.

    Raises:
        DataError: it cannot be read, is empty, or has none of these splits.
    """
    refused: DataError | None = None
    for split in (None, *splits):
        try:
            rows = list(islice(read_rows(source, split=split), MOST_ROWS))
        except DataError as error:
            if "has no split" not in error.problem:
                raise
            refused = error
            continue
        if not rows:
            raise DataError(f"{source} has no rows", rule="there is something to train on", remedy="give another file")
        return rows, split
    assert refused is not None
    raise refused


def _spread(rows: Sequence[Any]) -> list[Any]:
    return list(rows[:: max(len(rows) // _SHOWN, 1)][:_SHOWN])


def _texts(rows: Sequence[Mapping[str, Any]], column: str) -> list[str]:
    return [str(value) for row in rows if (value := value_at(row, column)) is not None]


def _are_unique(rows: Sequence[Mapping[str, Any]], test_rows: Sequence[Mapping[str, Any]], column: str) -> bool:
    ids = [_texts(table, column) for table in (rows, test_rows)]
    return all(len(set(found)) == len(table) for found, table in zip(ids, (rows, test_rows), strict=True))


def _split_off(source: str, rows: Sequence[Mapping[str, Any]], question: str, folder: Path) -> SplitFiles:
    """Draw questions, so that one that occurs twice is never on both sides.

    Raises:
        DataError: too few questions to measure on some and train on others.
    """
    questions = sorted({str(value_at(row, question)) for row in rows})
    if len(questions) < 2:
        raise DataError(
            f"{source} holds {len(questions)} question, and no --test was given",
            rule="some problems are trained on and others measured",
            remedy="give --test FILE, or a larger --train",
        )
    number = min(max(int(len(questions) * _TEST_SHARE), min(_LEAST_TEST, len(questions) // 2)), _MOST_TEST)
    held_out = set(random.Random(0).sample(questions, number))
    sides: tuple[list[Mapping[str, Any]], list[Mapping[str, Any]]] = ([], [])
    for row in rows:
        sides[str(value_at(row, question)) in held_out].append(row)
    stem = Path(source).name.partition(".")[0] or "data"
    return SplitFiles(
        folder.absolute() / f"{stem}-train.jsonl", folder.absolute() / f"{stem}-test.jsonl", sides[0], sides[1]
    )
