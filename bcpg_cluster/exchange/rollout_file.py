"""Reading a file of responses made elsewhere: JSON lines, checked line by line before anything is written."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from bcpg_cluster.errors import DataError
from bcpg_cluster.records import Prompt, StopReason

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


class RolloutFile:
    """A file of responses, indexed by prompt. Its texts stay on disk: they are read again, group by group.

    Args:
        columns: the file's name for each of ours, where it is another one.

    Attributes:
        groups: in the order in which the prompts first appear.
        digest: sha256 hex of the file's bytes.

    Raises:
        DataError: the file is missing, empty or not UTF-8; a line is not an object, lacks a column, has an empty response,
            contradicts an earlier line about its prompt, or repeats a (prompt, sample). Names the line.
    """

    def __init__(self, path: Path, columns: Mapping[str, str] | None = None) -> None:
        self.path = path
        self._columns = {name: (columns or {}).get(name, name) for name in (*REQUIRED, *OPTIONAL)}
        unknown = sorted(set(columns or {}) - set(self._columns))
        if unknown:
            raise DataError(
                f"the column mapping names unknown columns: {', '.join(unknown)}",
                rule=f"columns that can be mapped are {', '.join(self._columns)}",
                remedy="write OURS=THEIRS, e.g. response=completion",
            )
        if not path.is_file():
            raise DataError(f"{path} does not exist", rule="an import reads a JSON-lines file", remedy=_REMEDY)
        self.groups: list[ImportedGroup] = []
        self._by_id: dict[str, ImportedGroup] = {}
        self._names: tuple[bool, bool] | None = None
        digest = hashlib.sha256()
        offset = 0
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                digest.update(line)
                if line.strip():
                    self._index(self._parse(line, number), number, offset)
                offset += len(line)
        self.digest = digest.hexdigest()
        if not self.groups:
            raise DataError(f"{path} holds no response", rule="an import has at least one line", remedy=_REMEDY)

    @property
    def num_samples(self) -> int:
        """Responses in the file."""
        return sum(len(group.samples) for group in self.groups)

    def read(self, group: ImportedGroup) -> Iterator[tuple[int, int, ImportedResponse]]:
        """The responses of a group as (sample, line number, response)."""
        with self.path.open("rb") as file:
            for sample, number, offset in zip(group.samples, group.lines, group.offsets, strict=True):
                yield sample, number, self._read(file, offset, number)

    def _read(self, file: BinaryIO, offset: int, number: int) -> ImportedResponse:
        file.seek(offset)
        return self._parse(file.readline(), number)

    def _where(self, number: int) -> str:
        return f"{self.path}, line {number}"

    def _parse(self, line: bytes, number: int) -> ImportedResponse:
        where = self._where(number)
        try:
            content = json.loads(line.decode("utf-8"))
        except ValueError as error:  # not UTF-8, or not JSON
            raise DataError(f"{where}: cannot be read ({error})", rule="JSON lines in UTF-8", remedy=_REMEDY) from None
        if not isinstance(content, dict):
            raise DataError(f"{where}: a {type(content).__name__}", rule="a line is a JSON object", remedy=_REMEDY)
        missing = [self._columns[name] for name in REQUIRED if self._columns[name] not in content]
        if missing:
            raise DataError(
                f"{where}: lacks {', '.join(missing)}; it has {', '.join(sorted(content)) or 'nothing'}",
                rule="prompt, response and answer are there (without an answer nothing can be verified)",
                remedy=_REMEDY,
            )
        values = {name: content.get(key) for name, key in self._columns.items()}
        for name in REQUIRED:
            self._check_text(values[name], self._columns[name], where, may_be_number=name != "response")
        prompt_id, sample = values["prompt_id"], values["sample"]
        if prompt_id is not None:
            self._check_text(prompt_id, self._columns["prompt_id"], where, may_be_number=True)
        if sample is not None and (not isinstance(sample, int) or isinstance(sample, bool) or not 0 <= sample < 2**31):
            raise DataError(f"{where}: sample is {sample!r}", rule="samples count from 0", remedy=_REMEDY)
        stop = StopReason.STOP if values["stop_reason"] is None else values["stop_reason"]
        if stop not in (StopReason.STOP, StopReason.LENGTH):
            raise DataError(
                f"{where}: stop_reason is {stop!r}",
                rule="a response ended by itself (stop, the default) or was cut off (length)",
                remedy=_REMEDY,
            )
        return ImportedResponse(
            str(values["prompt"]),
            str(values["response"]),
            str(values["answer"]),
            None if prompt_id is None else str(prompt_id),
            sample,
            StopReason(stop),
        )

    @staticmethod
    def _check_text(value: object, key: str, where: str, *, may_be_number: bool) -> None:
        allowed = (str, int, float) if may_be_number else (str,)
        if not isinstance(value, allowed) or isinstance(value, bool) or not str(value).strip():
            raise DataError(
                f"{where}: {key} is {value!r}",
                rule="prompt, response and answer are text that is not empty",
                remedy=_REMEDY,
            )

    def _index(self, found: ImportedResponse, number: int, offset: int) -> None:
        """Put a line into its group."""
        where = self._where(number)
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
            what = "prompt" if group.prompt.question != prompt.question else "answer"
            raise DataError(
                f"{where}: the {what} differs from that of line {group.lines[0]} for the same prompt ({id_!r})",
                rule="the responses of a group share one prompt and one right answer",
                remedy="give other prompts other prompt_ids, or correct the answer",
            )
        sample = len(group.samples) if found.sample is None else found.sample
        if sample in group.samples:
            raise DataError(
                f"{where}: sample {sample} of prompt {id_!r} is already in line "
                f"{group.lines[group.samples.index(sample)]}",
                rule="prompt_id and sample together name one response",
                remedy="number the samples of a prompt, or leave the column out",
            )
        group.samples.append(sample)
        group.offsets.append(offset)
        group.lines.append(number)
