"""Which column of a table is what, and how its rows become prompts: those that cannot are named, all of them."""

from __future__ import annotations

import difflib
import json
import math
from array import array
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any, NoReturn

from bcpg_cluster.errors import DataError
from bcpg_cluster.prompts.bad_rows import BadRow, BadRowsError, Unit
from bcpg_cluster.prompts.table_files import Fault, PlacedRow, Row, table_stem
from bcpg_cluster.records import Prompt

_TEXT_RULE = "every value is text or a number, and not empty (without an answer nothing can be verified)"
_TEXT_REMEDY = "fill the value in, map another column, or leave the row out"
_OFTEN = {
    "question": ("question", "problem", "prompt", "query", "instruction", "messages"),
    "answer": ("answer", "reward_model.ground_truth", "ground_truth", "solution", "gold", "final_answer", "target"),
    "prompt_id": ("prompt_id", "id", "uid", "unique_id", "index"),
}  # what others call our columns, for remedies


@dataclass(frozen=True, slots=True)
class Columns:
    """Which column holds what; without ``prompt_id`` prompts are numbered by their row, from 0."""

    question: str = "question"
    answer: str = "answer"
    prompt_id: str | None = None


@dataclass(frozen=True, slots=True)
class ReadPrompts:
    """The prompts of a table.

    Attributes:
        numbers: the place of each prompt, counted in ``unit``.
        bad: the rows that are no prompts; see :meth:`checked`.
        num_rows: read, good and bad.
    """

    source: str
    prompts: list[Prompt]
    unit: Unit = "row"
    numbers: Sequence[int] = ()
    bad: tuple[BadRow, ...] = ()
    num_rows: int = 0

    def where(self, index: int) -> str:
        """The place of a prompt, for people."""
        return f"{self.source}, {self.unit} {self.numbers[index] if self.numbers else index}"

    def checked(self) -> list[Prompt]:
        """The prompts. Raises :class:`BadRowsError` when some rows are none."""
        if self.bad:
            raise BadRowsError(self.bad, self.num_rows)
        return self.prompts


def prompts_from_rows(rows: Iterable[Row], columns: Columns, source: str) -> list[Prompt]:
    """One prompt a row.

    Raises:
        DataError: a mapped column is missing (names those there are), a value is empty or no text or number, an id repeats, or
            one question has two answers.
    """
    placed = (PlacedRow(number, row) for number, row in enumerate(rows))
    return map_prompts(placed, columns, source, "row").checked()


def map_prompts(rows: Iterable[PlacedRow], columns: Columns, source: str, unit: Unit) -> ReadPrompts:
    """One prompt a row, or what is wrong with it.

    A question that has two answers has no known answer: all rows that hold it are bad. Of rows with one id the first is kept.

    Raises:
        DataError: no row has a mapped column, or there is no row.
    """
    mapping = _Mapping(columns, source, unit, table_stem(Path(source)))
    for row in rows:
        mapping.add(row)
    return mapping.finish()


@dataclass
class _Mapping:
    """What was read of a table so far."""

    columns: Columns
    source: str
    unit: Unit
    stem: str
    num_rows: int = 0
    prompts: list[Prompt] = field(default_factory=list)
    numbers: array[int] = field(default_factory=lambda: array("q"))
    bad: list[BadRow] = field(default_factory=list)
    known: dict[str, None] = field(default_factory=dict)
    lacking: dict[str, int] = field(default_factory=dict)
    place_of_id: dict[str, int] = field(default_factory=dict)
    of_question: dict[str, int] = field(default_factory=dict)  # the first index that has it
    contradicted: dict[int, str] = field(default_factory=dict)  # by index, what is wrong

    def add(self, row: PlacedRow) -> None:
        index, self.num_rows = self.num_rows, self.num_rows + 1
        if isinstance(row.content, Fault):
            self._refuse(row.number, row.content)
            return
        if index < 100:
            self.known |= dict.fromkeys(column_names(row.content))
        try:
            prompt = self._prompt(row.content, index)
        except _BadValue as error:
            if error.column is not None:
                self.lacking[error.column] = self.lacking.get(error.column, 0) + 1
            self._refuse(row.number, error.fault)
            return
        before = self.place_of_id.setdefault(prompt.prompt_id, row.number)
        if before != row.number:
            self._refuse(row.number, self._repeated(prompt.prompt_id, before))
            return
        self._compare(prompt, row.number)
        self.prompts.append(prompt)
        self.numbers.append(row.number)

    def finish(self) -> ReadPrompts:
        for column, num_lacking in self.lacking.items():
            if num_lacking == self.num_rows:
                raise self._no_column(column)
        for index, problem in self.contradicted.items():
            self._refuse(
                self.numbers[index],
                Fault(
                    "one question with two answers",
                    problem,
                    "one question has one right answer",
                    "correct the answer, write both alike, or leave the row out",
                ),
            )
        if not self.num_rows:
            raise DataError(
                f"{self.source} has no rows",
                rule="a data set has at least one prompt",
                remedy="choose another file or split",
            )
        kept = [index for index in range(len(self.prompts)) if index not in self.contradicted]
        if self.contradicted:
            self.prompts = [self.prompts[index] for index in kept]
            self.numbers = array("q", [self.numbers[index] for index in kept])
            self.bad.sort(key=lambda row: row.number)
        return ReadPrompts(self.source, self.prompts, self.unit, self.numbers, tuple(self.bad), self.num_rows)

    def _prompt(self, row: Row, index: int) -> Prompt:
        columns = self.columns
        prompt_id = _text(row, columns.prompt_id) if columns.prompt_id else f"{self.stem}-{index}"
        return Prompt(prompt_id, _question(row, columns.question), _text(row, columns.answer))

    def _compare(self, prompt: Prompt, number: int) -> None:
        """Note what contradicts an earlier row about the same question."""
        first = self.of_question.setdefault(prompt.question, len(self.prompts))
        if first == len(self.prompts) or self.prompts[first].answer == prompt.answer:
            return
        earlier = self.prompts[first].answer
        self.contradicted.setdefault(
            first,
            f"the answer {earlier!r:.60} differs from {prompt.answer!r:.60} in {self.unit} {number}, for the same question",
        )
        self.contradicted[len(self.prompts)] = (
            f"the answer {prompt.answer!r:.60} differs from {earlier!r:.60} in {self.unit} {self.numbers[first]}, "
            "for the same question"
        )

    def _repeated(self, prompt_id: str, before: int) -> Fault:
        return Fault(
            "an id that repeats",
            f"{self.columns.prompt_id} {prompt_id!r} was used in {self.unit} {before}",
            "prompt ids are unique in a data set",
            "rename or remove one of the two, or map no column to prompt_id: rows are numbered then",
        )

    def _refuse(self, number: int, found: Fault) -> None:
        self.bad.append(BadRow(self.source, self.unit, number, found.fault, found.problem, found.rule, found.remedy))

    def _no_column(self, column: str) -> DataError:
        ours = next(name for name in ("prompt_id", "question", "answer") if getattr(self.columns, name) == column)
        known = [name for name in self.known if name not in astuple(self.columns)]
        near = (
            difflib.get_close_matches(column, known, n=1, cutoff=0.8)
            or [name for name in _OFTEN[ours] if name in self.known]
            or difflib.get_close_matches(column, known, n=1)
        )
        return DataError(
            f"{self.source}: no column {column!r}; known: {', '.join(self.known) or 'none'}",
            rule="the column mapping names columns of the data set (a.b reaches into objects)",
            remedy=self._remedy(ours, near[0] if near else None),
        )

    def _remedy(self, ours: str, near: str | None) -> str:
        """What to do about a column that is nowhere."""
        suffixes = [suffix.lower() for suffix in Path(self.source).suffixes]
        if ".tsv" in suffixes and len(self.known) == 1 and "," in next(iter(self.known)):
            return "its fields are separated by commas, not tabs: name it .csv"
        if near:
            return f"did you mean {near}? set prompts.columns, e.g. {{{ours}: {near}}}"
        if ours == "prompt_id":
            mapped = f"{{question: {self.columns.question}, answer: {self.columns.answer}}}"
            return f"add the column, or number the rows instead: set prompts.columns to {mapped}"
        header = "; a CSV file begins with a line of column names" if {".csv", ".tsv"} & {*suffixes} else ""
        return (
            f"add the column, or set prompts.columns to the name of yours, e.g. {{{ours}: {_OFTEN[ours][1]}}}{header}"
        )


def column_names(row: Row) -> list[str]:
    """The names a mapping may use for a row's columns, those inside objects with dots."""
    names: list[str] = []
    for name, value in row.items():
        if isinstance(value, Mapping) and value:
            names += [f"{name}.{inner}" for inner in column_names(value)]
        else:
            names.append(str(name))
    return names


# --- values


class _BadValue(Exception):
    """A value that cannot be used; ``column`` is set where the row lacks it."""

    def __init__(self, found: Fault, column: str | None = None) -> None:
        super().__init__(found.problem)
        self.fault, self.column = found, column


def value_of(row: Row, column: str, where: str) -> Any:
    """What a column holds. Raises :class:`DataError`, naming the known columns, when it is missing."""
    try:
        return _value(row, column)
    except _BadValue as error:
        _raise(error, where)


def has_column(row: Row, column: str) -> bool:
    """Whether a row has a column, or a place inside an object or a list."""
    try:
        _value(row, column)
    except _BadValue:
        return False
    return True


def text_of(row: Row, column: str, where: str) -> str:
    """A column's value as text. Raises :class:`DataError` where it is empty, or neither a text nor a number."""
    try:
        return _text(row, column)
    except _BadValue as error:
        _raise(error, where)


def question_of(row: Row, column: str, where: str) -> str:
    """A column's value as a question: a text, or a chat of one user message. Raises :class:`DataError` as :func:`text_of`."""
    try:
        return _question(row, column)
    except _BadValue as error:
        _raise(error, where)


def response_of(row: Row, column: str, where: str) -> str:
    """A column's value as a response: a text, or a chat of one assistant message. Raises :class:`DataError` as :func:`text_of`,
    for a number too.
    """
    try:
        value = _value(row, column)
        if isinstance(value, Sequence) and len(value) == 1 and isinstance(value[0], Mapping):
            value = value[0].get("content")
        if isinstance(value, (int, float)):
            raise _BadValue(
                Fault(
                    "no text",
                    f"{column} is {_shown(value)}",
                    "a response is text",
                    "put the number into quotes, or map another column",
                )
            )
        return _as_text(value, column)
    except _BadValue as error:
        _raise(error, where)


def _raise(error: _BadValue, where: str) -> NoReturn:
    found = error.fault
    raise DataError(f"{where}: {found.problem}", rule=found.rule, remedy=found.remedy) from None


def _value(row: Row, column: str) -> Any:
    if column in row:
        return row[column]
    value: Any = row
    for part in column.split("."):
        if isinstance(value, Mapping) and part in value:
            value = value[part]
        elif isinstance(value, Sequence) and not isinstance(value, str) and part.isdecimal() and int(part) < len(value):
            value = value[int(part)]
        else:
            raise _BadValue(
                Fault(
                    f"no column {column!r}",
                    f"no column {column!r}; known: {', '.join(column_names(row)) or 'none'}",
                    "the column mapping names columns of the data set (a.b reaches into objects)",
                    "fill it in, map another column, or leave the row out",
                ),
                column,
            )
    return value


def _text(row: Row, column: str) -> str:
    return _as_text(_value(row, column), column)


def _question(row: Row, column: str) -> str:
    value = _value(row, column)
    if (
        isinstance(value, Sequence)
        and not isinstance(value, str)
        and value
        and all(isinstance(m, Mapping) for m in value)
    ):
        return _as_text(_only_message(value, column), column)
    return _as_text(value, column)


def _only_message(messages: Sequence[Mapping[str, Any]], column: str) -> Any:
    """The content of a chat's one message, which is the user's."""
    roles = [message.get("role") for message in messages]
    if roles != ["user"]:
        place = roles.index("user") if "user" in roles else 0
        raise _BadValue(
            Fault(
                "a chat of other messages",
                f"{column!r} is a chat of {', '.join(map(str, roles))}",
                "a prompt is one user message: the model's chat template renders it, and no other message comes with it",
                f"map that message alone ({column}.{place}.content), or put a system message into the question or the template",
            )
        )
    content = messages[0].get("content")
    if isinstance(content, Sequence) and not isinstance(content, str):
        parts = [
            part.get("text") if isinstance(part, Mapping) and part.get("type") == "text" else None for part in content
        ]
        if all(isinstance(part, str) for part in parts):
            return "".join(part for part in parts if part is not None)
    return content


def _as_text(value: Any, column: str) -> str:
    is_number = isinstance(value, (int, float, Decimal)) and not isinstance(value, bool) and math.isfinite(value)
    if not is_number and not (isinstance(value, str) and value.strip()):
        raise _BadValue(Fault(f"{column} is {_kind(value)}", f"{column} is {_shown(value)}", _TEXT_RULE, _TEXT_REMEDY))
    text = str(value)
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise _BadValue(
            Fault(
                "half a character",
                f"{column} holds half a character, {json.dumps(text[error.start])} at character {error.start} (a lone surrogate)",
                "texts are whole Unicode characters; a file cut inside an emoji leaves half of one",
                "repair the text, or leave the row out",
            )
        ) from None
    return text


def _shown(value: Any) -> str:
    """A value as JSON has it where that differs from Python."""
    return json.dumps(value) if value is None or isinstance(value, (bool, float)) else f"{value!r:.80}"


def _kind(value: Any) -> str:
    if value is None or (isinstance(value, (str, Sequence, Mapping)) and not len(value)) or isinstance(value, str):
        return "empty"
    if isinstance(value, float):
        return "not finite"
    return f"a {type(value).__name__}"
