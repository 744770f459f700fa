"""Reading a file of responses made elsewhere, checked line by line before anything is written.

JSON lines are read where they lie. Other formats (``prompts.table_files.FORMATS``) are first laid out as such lines in a
temporary file; places are those of the file itself.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import tempfile
from array import array
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from bcpg_cluster.errors import DataError
from bcpg_cluster.prompts.bad_rows import BadRow, BadRowsError, Unit
from bcpg_cluster.prompts.columns import column_names, has_column, question_of, response_of, text_of, value_of
from bcpg_cluster.prompts.table_files import Fault, is_table_file, parse_object, table_rows
from bcpg_cluster.records import Prompt, StopReason

Translate = Callable[[Mapping[str, Any], str], Mapping[str, Any]]

_MARK = b"\xef\xbb\xbf"  # how some programs begin UTF-8 text
REQUIRED = ("prompt", "response", "answer")
OPTIONAL = ("prompt_id", "sample", "stop_reason")
_REMEDY = (
    'one JSON object a line: {"prompt": "...", "response": "...", "answer": "..."}, perhaps with prompt_id, sample and '
    "stop_reason; other names by a column mapping"
)


@dataclass(frozen=True, slots=True)
class ImportedResponse:
    """One line. ``prompt_id`` and ``sample`` are ``None`` where the file does not name them."""

    prompt: str
    response: str
    answer: str
    prompt_id: str | None
    sample: int | None
    stop_reason: StopReason


@dataclass
class ImportedGroup:
    """The responses to one prompt: where their lines begin in the file, and which line numbers those are."""

    prompt: Prompt
    samples: list[int] = field(default_factory=list)
    offsets: list[int] = field(default_factory=list)
    lines: list[int] = field(default_factory=list)


def first_columns(path: Path) -> tuple[str, ...]:
    """The columns of the first row that can be read; none where no row can, or there is no such file."""
    if not path.is_file():
        return ()
    rows = (row.content for row in table_rows(path)[1])
    first = next((row for row in rows if not isinstance(row, Fault)), {})
    return tuple(map(str, first))


class RolloutFile:
    """A file of responses, indexed by prompt. Its texts stay on disk: they are read again, group by group.

    Use as a context manager, or ``close``: a file in another format than JSON lines has a temporary twin.

    Args:
        columns: the file's name for each of ours, where it is another one.
        translate: makes one of our rows of one of the file's (row, its place); none for a file that has our columns.

    Attributes:
        groups: in the order in which the prompts first appear; bad lines are in none.
        bad: the lines that cannot be used.
        num_rows: lines read, bad ones too.
        digest: sha256 hex of the file's bytes.

    Raises:
        DataError: the file is missing or empty. A line is bad that is not an object in UTF-8, lacks a column, has an empty
            response or half a character, contradicts an earlier line about its prompt, or repeats a (prompt, sample).
    """

    def __init__(
        self, path: Path, columns: Mapping[str, str] | None = None, translate: Translate | None = None
    ) -> None:
        self.path = path
        self._translate = translate
        self.bad: list[BadRow] = []
        self.num_rows = 0
        self._columns = {name: (columns or {}).get(name, name) for name in (*REQUIRED, *OPTIONAL)}
        unknown = sorted(set(columns or {}) - set(self._columns))
        if unknown:
            raise DataError(
                f"the column mapping names unknown columns: {', '.join(unknown)}",
                rule=f"columns that can be mapped are {', '.join(self._columns)}",
                remedy="write OURS=THEIRS, e.g. response=completion",
            )
        if not path.is_file():
            raise DataError(f"{path} does not exist", rule="an import reads a file of responses", remedy=_REMEDY)
        self._lines, self._numbers = path, array("q")
        self._unit: Unit = "line"
        self._twin: tempfile.TemporaryDirectory[str] | None = None
        if is_table_file(path) and path.suffix not in (".jsonl", ".ndjson"):
            self._lay_out()
        self.groups: list[ImportedGroup] = []
        self._by_id: dict[str, ImportedGroup] = {}
        self._names: tuple[bool, bool] | None = None
        offset = 0
        with self._lines.open("rb") as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    self.num_rows += 1
                    try:
                        self._index(self._parse(line, number), number, offset)
                    except DataError as error:
                        self.refuse(number, error)
                offset += len(line)
        with path.open("rb") as file:
            self.digest = hashlib.file_digest(file, "sha256").hexdigest()
        if not self.groups and not self.bad:
            raise DataError(f"{path} has no responses", rule="an import has at least one line", remedy=_REMEDY)

    def __enter__(self) -> RolloutFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Drop the temporary twin, if there is one."""
        if self._twin is not None:
            self._twin.cleanup()

    def _lay_out(self) -> None:
        """Write the rows as JSON lines beside a list of their places."""
        self._unit, rows = table_rows(self.path)
        self._twin = tempfile.TemporaryDirectory(prefix="bcpg-import-")
        self._lines = Path(self._twin.name) / "rows.jsonl"
        with self._lines.open("w", encoding="ascii") as file:
            for row in rows:
                if isinstance(row.content, Fault):
                    found = row.content
                    self.num_rows += 1
                    self.bad.append(
                        BadRow(
                            str(self.path), self._unit, row.number, found.fault, found.problem, found.rule, found.remedy
                        )
                    )
                    continue
                file.write(json.dumps(row.content, default=str) + "\n")
                self._numbers.append(row.number)

    @property
    def num_samples(self) -> int:
        """Responses in the file."""
        return sum(len(group.samples) for group in self.groups)

    def read(self, group: ImportedGroup) -> Iterator[tuple[int, int, ImportedResponse]]:
        """The responses of a group as (sample, line number, response)."""
        with self._lines.open("rb") as file:
            for sample, number, offset in zip(group.samples, group.lines, group.offsets, strict=True):
                yield sample, number, self._read(file, offset, number)

    def _read(self, file: BinaryIO, offset: int, number: int) -> ImportedResponse:
        file.seek(offset)
        return self._parse(file.readline(), number)

    def refuse(self, number: int, error: DataError) -> None:
        """Note that a line that was read cannot be used."""
        problem = error.problem.removeprefix(f"{self.where(number)}: ")
        self.bad.append(
            BadRow(str(self.path), self._unit, self.place(number), error.rule, problem, error.rule, error.remedy)
        )

    def check(self) -> None:
        """Raises :class:`BadRowsError`, with every line that cannot be used, when there is one."""
        if self.bad:
            raise BadRowsError(
                sorted(self.bad, key=lambda row: row.number),
                self.num_rows,
                way_out="leave them all out with --skip-bad",
            )

    def where(self, number: int) -> str:
        """The place of a line that was read, for people."""
        return f"{self.path}, {self._unit} {self.place(number)}"

    def place(self, number: int) -> int:
        """The place in the file itself of a line that was read."""
        return self._numbers[number - 1] if self._numbers else number

    def _parse(self, line: bytes, number: int) -> ImportedResponse:
        where = self.where(number)
        line = line.rstrip(b"\r\n")
        content = parse_object(line.removeprefix(_MARK) if number == 1 else line)
        if isinstance(content, Fault):
            remedy = _REMEDY if content.fault in ("not JSON", "no object") else content.remedy
            raise DataError(f"{where}: {content.problem}", rule=content.rule, remedy=remedy)
        if self._translate is not None:
            content = self._translate(content, where)
        known = column_names(content)
        missing = [key for key in (self._columns[name] for name in REQUIRED) if not has_column(content, key)]
        if missing:
            near = difflib.get_close_matches(missing[0], known, n=1)
            raise DataError(
                f"{where}: lacks {', '.join(missing)}; it has {', '.join(sorted(known)) or 'nothing'}",
                rule="prompt, response and answer are there (without an answer nothing can be verified)",
                remedy=(f"did you mean {near[0]}? " if near else "") + _REMEDY,
            )
        values: dict[str, Any] = {
            "prompt": question_of(content, self._columns["prompt"], where),
            "response": response_of(content, self._columns["response"], where),
            "answer": text_of(content, self._columns["answer"], where),
        }
        for name in OPTIONAL:
            key = self._columns[name]
            values[name] = value_of(content, key, where) if has_column(content, key) else None
        prompt_id, sample = values["prompt_id"], values["sample"]
        if prompt_id is not None:
            prompt_id = text_of(content, self._columns["prompt_id"], where)
        if isinstance(sample, str) and sample.isdecimal():  # of a CSV file
            sample = int(sample)
        if sample is not None and (not isinstance(sample, int) or isinstance(sample, bool) or not 0 <= sample < 2**31):
            raise DataError(f"{where}: sample is {sample!r}", rule="samples count from 0", remedy=_REMEDY)
        stop = values["stop_reason"] or StopReason.STOP  # an empty field of a CSV file says nothing
        if stop not in (StopReason.STOP, StopReason.LENGTH):
            raise DataError(
                f"{where}: stop_reason is {stop!r}",
                rule="a response ended by itself (stop, the default) or was cut off (length)",
                remedy=_REMEDY,
            )
        return ImportedResponse(
            values["prompt"], values["response"], values["answer"], prompt_id, sample, StopReason(stop)
        )

    def _index(self, found: ImportedResponse, number: int, offset: int) -> None:
        """Put a line into its group."""
        where = self.where(number)
        names = (found.prompt_id is not None, found.sample is not None)
        if self._names is None:
            self._names = names
        for name, is_here, was_before in zip(("prompt_id", "sample"), names, self._names, strict=True):
            if is_here != was_before:
                raise DataError(
                    f"{where}: {name} is {'given' if is_here else 'missing'}, unlike in the lines before",
                    rule="prompt_id is given on every line or on none, and so is sample",
                    remedy="complete the file, or leave the column out",
                )
        id_ = found.prompt_id or f"p{hashlib.sha256(found.prompt.encode()).hexdigest()[:16]}"
        prompt = Prompt(id_, found.prompt, found.answer)
        group = self._by_id.get(id_)
        if group is None:
            group = self._by_id[id_] = ImportedGroup(prompt)
            self.groups.append(group)
        elif group.prompt != prompt:
            first, place = group.prompt, f"{self._unit} {self.place(group.lines[0])}"
            pair = (
                ("prompt", prompt.question, first.question)
                if first.question != prompt.question
                else ("answer", prompt.answer, first.answer)
            )
            raise DataError(
                f"{where}: the {pair[0]} {pair[1]!r:.60} differs from {pair[2]!r:.60} in {place}, for the same prompt ({id_!r})",
                rule="the responses of a group share one prompt and one right answer",
                remedy="give other prompts other prompt_ids, or correct the answer",
            )
        sample = len(group.samples) if found.sample is None else found.sample
        if sample in group.samples:
            raise DataError(
                f"{where}: sample {sample} of prompt {id_!r} is already in {self._unit} "
                f"{self.place(group.lines[group.samples.index(sample)])}",
                rule="prompt_id and sample together name one response",
                remedy="number the samples of a prompt, or leave the column out",
            )
        group.samples.append(sample)
        group.offsets.append(offset)
        group.lines.append(number)
