"""Samples from a file, graded: how rewards are checked on data of one's own, before anybody pays for rollouts."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from bcpg_cluster.errors import DataError, UserError
from bcpg_cluster.records import StopReason
from bcpg_cluster.stages.verify.protocol import Verification, Verifier

_SAMPLE_KEYS = ("response", "gold", "stop_reason", "expected")
_PROMPT_KEYS = ("prompt_id", "question", "answer")
_MAX_SHOWN = 20  # bad lines in one message
_SAMPLE_REMEDY = 'one JSON object a line: {"response": "...", "gold": "...", "stop_reason": "stop", "expected": 1}'
_GOLD_REMEDY = 'one JSON object a line: {"gold": "..."}, or a prompt file'
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Sample:
    """One line of a file: a response and the answer it is compared with.

    Attributes:
        line: where it stands, from 1.
        has_expected: the line says what the reward should be.
        expected: that reward; ``None`` for "no reward".
    """

    line: int
    response: str
    gold: str
    stop_reason: StopReason = StopReason.STOP
    has_expected: bool = False
    expected: float | None = None


@dataclass(frozen=True, slots=True)
class Graded:
    """A sample and what the verifier made of it; ``differs`` from what the line expects."""

    sample: Sample
    verification: Verification
    differs: bool


@dataclass(frozen=True, slots=True)
class Gold:
    """One gold answer of a file; ``line`` from 1."""

    line: int
    gold: str


@dataclass(frozen=True, slots=True)
class BadGold:
    """A gold answer that no response could match, and why."""

    gold: Gold
    problem: str


def read_samples(path: Path, columns: Mapping[str, str] | None = None) -> list[Sample]:
    """The samples of a JSON-lines file.

    Args:
        columns: the file's own name for a key of ours, such as ``gold: answer``; other columns are then left alone.

    Raises:
        DataError: it cannot be read, is empty, or has lines that are no sample; all of them are counted.
    """
    return _read(path, lambda line, row: _sample(line, row, columns or {}), _SAMPLE_REMEDY)


def read_golds(path: Path, columns: Mapping[str, str] | None = None) -> list[Gold]:
    """The gold answers of a JSON-lines file with ``gold``, or of a prompt file. Raises as :func:`read_samples` does."""
    return _read(path, lambda line, row: _gold(line, row, columns or {}), _GOLD_REMEDY)


def grade(verifier: Verifier, samples: Sequence[Sample]) -> Iterator[Graded]:
    """What the verifier makes of each sample, in order."""
    for sample in samples:
        verification = verifier.verify(sample.response, sample.gold, sample.stop_reason)
        yield Graded(sample, verification, sample.has_expected and verification.reward != sample.expected)


def bad_golds(verifier: Verifier, golds: Sequence[Gold]) -> Iterator[BadGold]:
    """The gold answers that the verifier refuses: no right answer could match them."""
    for gold in golds:
        try:
            verifier.check_gold(gold.gold)
        except DataError as error:
            yield BadGold(gold, error.problem)


def _read(path: Path, make: Callable[[int, Mapping[str, Any]], _T], remedy: str) -> list[_T]:
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")  # not splitlines: strings may hold U+2028 and the like
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"{path} cannot be read: {error}", rule="grade takes JSON lines in UTF-8", remedy=remedy
        ) from None
    found: list[_T] = []
    problems: list[str] = []
    for number, line in enumerate(lines, start=1):
        if line.strip():
            try:
                found.append(make(number, _row(line)))
            except ValueError as error:
                problems.append(f"line {number}: {error}")
    if problems:
        shown = "".join(f"\n    {problem}" for problem in problems[:_MAX_SHOWN])
        more = f"\n    and {len(problems) - _MAX_SHOWN} more" if len(problems) > _MAX_SHOWN else ""
        raise DataError(
            f"{path}: {len(problems)} of {len(problems) + len(found)} lines cannot be used:{shown}{more}",
            rule="every line is graded, or none",
            remedy=remedy,
        )
    if not found:
        raise DataError(f"{path} is empty", rule="there is at least one line to grade", remedy=remedy)
    return found


def _row(line: str) -> Mapping[str, Any]:
    row = json.loads(line)  # JSONDecodeError is a ValueError
    if not isinstance(row, dict):
        raise ValueError(f"a {type(row).__name__} instead of a JSON object")
    return row


def _sample(line: int, row: Mapping[str, Any], columns: Mapping[str, str]) -> Sample:
    row = _renamed(row, columns, _SAMPLE_KEYS)
    response = _required(row, "response")
    if not isinstance(response, str):
        raise ValueError(f"response is {response!r:.80}, not a text")
    stop_reason = row.get("stop_reason", StopReason.STOP.value)
    if stop_reason not in tuple(StopReason):
        raise ValueError(f"stop_reason is {stop_reason!r:.80}, not one of {', '.join(StopReason)}")
    expected = row.get("expected")
    if isinstance(expected, bool) or expected not in (None, 0, 1):
        raise ValueError(f"expected is {expected!r:.80}, not 0, 1 or null (no reward)")
    has_expected = "expected" in row
    value = None if expected is None else float(expected)
    return Sample(line, response, _answer(_required(row, "gold")), StopReason(stop_reason), has_expected, value)


def _gold(line: int, row: Mapping[str, Any], columns: Mapping[str, str]) -> Gold:
    if not columns and set(row) == set(_PROMPT_KEYS):
        return Gold(line, _answer(row["answer"]))
    return Gold(line, _answer(_required(_renamed(row, columns, _SAMPLE_KEYS), "gold")))


def _renamed(row: Mapping[str, Any], columns: Mapping[str, str], keys: Sequence[str]) -> Mapping[str, Any]:
    """The row under our names. Raises ``ValueError`` for a key that is none of them, where no columns are named."""
    if columns:
        return {key: row[columns.get(key, key)] for key in keys if columns.get(key, key) in row}
    unknown = sorted(set(row) - set(keys))
    if unknown:
        raise ValueError(f"unknown keys {', '.join(unknown)}; there are {', '.join(keys)}")
    return row


def _required(row: Mapping[str, Any], key: str) -> Any:
    if key not in row:
        raise ValueError(f"{key} is missing")
    return row[key]


def _answer(value: Any) -> str:
    """A gold answer as text, as prompt files have it; the tests of a program may stand there as an object."""
    if isinstance(value, dict):
        return json.dumps(value)
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    if not is_number and not isinstance(value, str):
        raise ValueError(f"the gold answer is {value!r:.80}, neither a text nor a number")
    return str(value)


def check_columns(columns: Mapping[str, str]) -> None:
    """Raises :class:`UserError` for a column mapping that names no key of ours."""
    unknown = sorted(set(columns) - set(_SAMPLE_KEYS))
    if unknown:
        raise UserError(
            f"--column {unknown[0]}={columns[unknown[0]]} names no key",
            rule=f"the keys are {', '.join(_SAMPLE_KEYS)}",
            remedy="e.g. --column gold=answer",
        )
