"""Rows of a file as people have them: JSON lines, a JSON array, CSV, TSV, Parquet; gzipped, with a byte-order mark, with CRLF.

A row that cannot be read does not end the reading: it comes as a :class:`Fault` in its place, so that all of them can be said.
"""

from __future__ import annotations

import csv
import gzip
import json
import sys
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO

from bcpg_cluster.errors import DataError
from bcpg_cluster.prompts.bad_rows import Unit

Row = Mapping[str, Any]

FORMATS = (
    "JSON lines (.jsonl), a JSON array (.json), CSV (.csv, .tsv) and Parquet (.parquet); the first three also as .gz"
)
_TEXT_REMEDY = "save the file as UTF-8 text"
_JSON_REMEDY = (
    'one JSON object a line: {"prompt_id": "...", "question": "...", "answer": "..."}; other names by prompts.columns'
)
_JSON_RULE = "a line is one JSON object"
_OTHER_FORMATS = (".xlsx", ".xls", ".zip", ".zst", ".bz2", ".xz", ".7z", ".arrow", ".feather", ".pkl", ".npz")
_UTF8_MARK = b"\xef\xbb\xbf"
_UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")


@dataclass(frozen=True, slots=True)
class Fault:
    """Why a row could not be read; see :class:`bcpg_cluster.prompts.bad_rows.BadRow`."""

    fault: str
    problem: str
    rule: str
    remedy: str


@dataclass(frozen=True, slots=True)
class PlacedRow:
    """A row, or why there is none, and its place, counted in the table's unit."""

    number: int
    content: Row | Fault


def is_table_file(path: Path) -> bool:
    """Whether a path names a file by its ending, so that nothing else (a hub id, a directory) can be meant."""
    return _plain_suffix(path) in (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet")


def table_stem(path: Path) -> str:
    """A file's name without its endings."""
    return Path(path.stem).stem if path.suffix == ".gz" else path.stem


def table_rows(path: Path) -> tuple[Unit, Iterator[PlacedRow]]:
    """How places in a file are counted, and its rows in order, read as they are asked for.

    Raises:
        DataError: the file as a whole cannot be read: its format, its encoding, a broken quote or archive, a header without
            names. Some of that is only found while its rows are asked for.
    """
    suffix = _plain_suffix(path)
    if suffix in _OTHER_FORMATS:
        raise unreadable(
            path, f"{path.suffix} files are not read", f"files of rows are {FORMATS}", "convert it to one of these"
        )
    if suffix == ".parquet":
        return "row", _parquet_rows(path)
    if suffix in (".csv", ".tsv"):
        return "line", _csv_rows(path, "\t" if suffix == ".tsv" else None)
    array = _json_array(path)
    if array is not None:
        return "entry", iter(array)
    return "line", _json_lines(path)


def unreadable(source: object, problem: str, rule: str, remedy: str) -> DataError:
    """The error for a table that cannot be read as a whole."""
    return DataError(f"{source} cannot be read: {problem:.600}", rule=rule, remedy=remedy)


def _plain_suffix(path: Path) -> str:
    return Path(path.stem).suffix.lower() if path.suffix == ".gz" else path.suffix.lower()


def _open(path: Path) -> BinaryIO:
    try:
        return gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb")  # type: ignore[return-value]
    except OSError as error:
        raise unreadable(
            path, str(error), "the file is there and may be read", "correct the name or its permissions"
        ) from None


def _byte_lines(path: Path) -> Iterator[bytes]:
    r"""The lines of a text file without their ends and without a byte-order mark. Only ``\n`` ends a line: JSON strings may hold
    U+2028 and the like.
    """
    with _open(path) as file:
        try:
            for number, line in enumerate(file):
                if number == 0:
                    if line.startswith(_UTF16_MARKS):
                        raise unreadable(path, "it is UTF-16 text", "text files are UTF-8", _TEXT_REMEDY)
                    line = line.removeprefix(_UTF8_MARK)
                yield line.rstrip(b"\r\n")
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise unreadable(
                path,
                f"the archive is damaged: {error}",
                "a .gz file is one whole gzip archive",
                "copy or download it again",
            ) from None


# --- JSON


def parse_object(line: bytes) -> Row | Fault:
    """One line of JSON lines."""
    try:
        text = line.decode("utf-8")
    except UnicodeDecodeError as error:
        problem = f"not UTF-8: {line[error.start : error.start + 4]!r} at byte {error.start}"
        return Fault("not UTF-8", problem, "text files are UTF-8", _TEXT_REMEDY)
    try:
        content = json.loads(text, parse_constant=_no_constant)
    except _NoNumber as error:
        return Fault(
            "NaN or Infinity",
            f"not JSON: it holds {error}",
            "a missing value is no answer; JSON knows neither NaN nor Infinity",
            "fill the value in, or leave the row out",
        )
    except json.JSONDecodeError as error:
        said = f"{error.msg.removesuffix(' at')} at character {error.pos + 1}"
        return Fault("not JSON", f"not JSON ({said}): {text:.60}", _JSON_RULE, _JSON_REMEDY)
    except (ValueError, RecursionError) as error:
        return _beyond_limits(error, text)
    if not isinstance(content, dict):
        return Fault("no object", f"{_what(content)}, not a JSON object: {text:.60}", _JSON_RULE, _JSON_REMEDY)
    return content


def _beyond_limits(error: ValueError | RecursionError, text: str) -> Fault:
    """JSON that Python does not read: lists in lists in lists, or an integer of thousands of digits."""
    if isinstance(error, RecursionError):
        return Fault(
            "nested too deeply", f"lists or objects nested too deeply: {text:.60}", _JSON_RULE, "leave the row out"
        )
    limit = sys.get_int_max_str_digits()
    return Fault(
        "a number too long",
        f"a number of more than {limit:,} digits: {text:.60}",
        f"a number has at most {limit:,} digits; text may be of any length",
        "put the number into quotes, or leave the row out",
    )


def _what(content: Any) -> str:
    if isinstance(content, (int, float)) and not isinstance(content, bool):
        return "a number"
    if isinstance(content, list):
        return "a list"
    return "a text" if isinstance(content, str) else json.dumps(content)


class _NoNumber(Exception):
    """A constant that is no number in JSON."""


def _no_constant(name: str) -> float:
    raise _NoNumber(name)


def _json_lines(path: Path) -> Iterator[PlacedRow]:
    for number, line in enumerate(_byte_lines(path), start=1):
        if line.strip():
            yield PlacedRow(number, parse_object(line))


def _json_array(path: Path) -> list[PlacedRow] | None:
    """The entries of a file that is one JSON array; ``None`` for one that is not."""
    lines = _byte_lines(path)
    first = next((line for line in lines if line.strip()), b"").lstrip()
    is_whole_object = (
        first.startswith(b"{") and _plain_suffix(path) == ".json" and isinstance(parse_object(first), Fault)
    )
    if not first.startswith(b"[") and not is_whole_object:
        return None
    try:
        content = json.loads(b"\n".join(chain([first], lines)), parse_constant=_no_constant)
    except _NoNumber as error:
        raise unreadable(
            path,
            f"not JSON: it holds {error}",
            "a missing value is no answer; JSON knows neither NaN nor Infinity",
            "fill the value in, or leave the entry out",
        ) from None
    except (ValueError, RecursionError) as error:
        if first.rstrip().endswith((b"]", b"}")):  # a line of its own: JSON lines, however wrong
            return None
        said = (
            f"not JSON: {error.msg}: line {error.lineno}, column {error.colno}"
            if isinstance(error, json.JSONDecodeError)
            else _beyond_limits(error, "").problem.removesuffix(": ")
        )
        raise unreadable(
            path, said, "a .json file is one array of objects, or an object a line", _JSON_REMEDY
        ) from None
    if isinstance(content, dict):
        raise unreadable(
            path,
            f"it is one JSON object with {', '.join(map(repr, list(content)[:5]))}",
            "a .json file is one array of objects, or an object a line",
            "write the list of rows alone",
        )
    if _plain_suffix(path) == ".jsonl" and not any(isinstance(entry, dict) for entry in content):
        return None  # a line that is a list
    return [PlacedRow(number, _entry(entry)) for number, entry in enumerate(content, start=1)]


def _entry(entry: Any) -> Row | Fault:
    if isinstance(entry, dict):
        return entry
    return Fault(
        "no object",
        f"{_what(entry)}, not a JSON object: {entry!r:.60}",
        "an entry is one JSON object",
        _JSON_REMEDY,
    )


# --- CSV


def _csv_rows(path: Path, delimiter: str | None) -> Iterator[PlacedRow]:
    """The rows below the header; a field may hold line ends inside quotes, and the place is the line where a row begins."""
    csv.field_size_limit(sys.maxsize)
    texts = _csv_texts(path)
    above, header = next(((number, text) for number, text in enumerate(texts) if text.strip()), (0, ""))
    if delimiter is None:
        delimiter = max(",;\t", key=header.count)
    reader = csv.reader(chain([header], texts), delimiter=delimiter, strict=True)
    try:
        names = [name.strip() for name in next(reader, [])]
        _check_header(path, names)
        begins = reader.line_num + 1
        for fields in reader:
            number, begins = begins + above, reader.line_num + 1
            if any(field.strip() for field in fields):
                yield PlacedRow(number, _csv_row(names, fields))
    except csv.Error as error:
        raise unreadable(
            path,
            f"line {reader.line_num + above}: {error}",
            "a CSV field with quotes, commas or line ends stands in double quotes, and a quote inside it is doubled",
            "close the quote, or save the file again with a CSV writer",
        ) from None


def _csv_texts(path: Path) -> Iterator[str]:
    for number, line in enumerate(_byte_lines(path), start=1):
        try:
            yield line.decode("utf-8") + "\n"
        except UnicodeDecodeError as error:
            raise unreadable(
                path,
                f"line {number} is not UTF-8: {line[error.start : error.start + 4]!r}",
                "text files are UTF-8",
                _TEXT_REMEDY,
            ) from None


def _check_header(path: Path, names: list[str]) -> None:
    repeated = [name for name in dict.fromkeys(names) if names.count(name) > 1]
    if names and (repeated or not all(names)):
        raise unreadable(
            path,
            f"its header is {', '.join(map(repr, names))}" if not repeated else f"its header has {repeated[0]!r} twice",
            "the first line of a CSV file names every column once",
            "correct the header",
        )


def _csv_row(names: list[str], fields: list[str]) -> Row | Fault:
    if len(fields) != len(names):
        return Fault(
            "other number of fields",
            f"{len(fields)} field{'s'[: len(fields) != 1]}, but the header names {len(names)} columns",
            "a CSV row has a field for every column of the header",
            "put a field that holds the delimiter or a line end in double quotes"
            if len(fields) > len(names)
            else "complete the row",
        )
    return dict(zip(names, fields, strict=True))


# --- Parquet


def _parquet_rows(path: Path) -> Iterator[PlacedRow]:
    import pyarrow
    from pyarrow import parquet

    number = 0
    try:
        with parquet.ParquetFile(path) as file:
            for batch in file.iter_batches():
                for row in batch.to_pylist():
                    yield PlacedRow(number, row)
                    number += 1
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        raise unreadable(
            path, str(error), "a .parquet file is Apache Parquet", "write it again, or download it again"
        ) from None
