"""Rows of a table that cannot be used: each with its place and what is wrong, all of them in one error."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Literal

from bcpg_cluster.errors import DataError

Unit = Literal["line", "row", "entry"]
"""How a place in a table is counted: lines of a text file and entries of a JSON array from 1, rows of other tables from 0."""

_MAX_EACH = 20  # rows of one fault that are shown one by one
_MAX_PLACES = 200  # runs of places shown for one fault


@dataclass(frozen=True, slots=True)
class BadRow:
    """A row that cannot be used.

    Attributes:
        source: the file or data set.
        number: its place, counted in ``unit``.
        fault: what kind of thing is wrong, in a few words, the same for all rows of that kind.
        problem: what is wrong with this one, with the value.
    """

    source: str
    unit: Unit
    number: int
    fault: str
    problem: str
    rule: str
    remedy: str

    @property
    def where(self) -> str:
        """Its place, for people."""
        return f"{self.source}, {self.unit} {self.number}"


class BadRowsError(DataError):
    """Rows of one or more tables cannot be used.

    Attributes:
        rows: every one of them.
        num_rows: how many rows were read, good ones too.
        way_out: what else a person may do, after the remedies of the rows; empty for nothing.
    """

    def __init__(self, rows: Sequence[BadRow], num_rows: int, *, way_out: str = "") -> None:
        self.rows, self.num_rows, self.way_out = tuple(rows), num_rows, way_out
        rules = "; ".join(dict.fromkeys(row.rule for row in self.rows))
        remedies = "; ".join([*dict.fromkeys(row.remedy for row in self.rows), *([way_out] if way_out else [])])
        super().__init__(_problem(self.rows, num_rows), rule=rules, remedy=remedies)

    def __reduce__(self) -> tuple[object, ...]:
        return (_rebuild, (self.rows, self.num_rows, self.way_out))


def _rebuild(rows: Sequence[BadRow], num_rows: int, way_out: str) -> BadRowsError:
    """Unpickle a :class:`BadRowsError` (errors cross processes)."""
    return BadRowsError(rows, num_rows, way_out=way_out)


def count_faults(rows: Iterable[BadRow]) -> dict[str, int]:
    """How many rows have each kind of fault."""
    return dict(Counter(row.fault for row in rows))


def _problem(rows: Sequence[BadRow], num_rows: int) -> str:
    if len(rows) == 1:
        return f"{rows[0].where}: {rows[0].problem}"
    return f"{len(rows):,} of {num_rows:,} rows cannot be used:" + "".join(
        f"\n    {line}" for line in describe_faults(rows)
    )


def describe_faults(rows: Sequence[BadRow]) -> list[str]:
    """What is wrong with rows, by table and kind of fault: a line a row, or, where there are many, one line with how many, all
    their places, and the first one's problem.
    """
    kinds: dict[tuple[str, str], list[BadRow]] = {}
    for row in rows:
        kinds.setdefault((row.source, row.fault), []).append(row)
    lines = []
    for (source, fault), of_kind in kinds.items():
        first = of_kind[0]
        if len(of_kind) <= _MAX_EACH:
            lines += [f"{row.where}: {row.problem}" for row in of_kind]
            continue
        places = _places([row.number for row in of_kind])
        unit = {"entry": "entries"}.get(first.unit, f"{first.unit}s")
        lines.append(
            f"{source}: {len(of_kind):,} {unit}: {fault}: {unit} {places} (the first of them: {first.problem})"
        )
    return lines


def _places(numbers: Sequence[int]) -> str:
    """Numbers with neighbours joined: ``4, 9, 22-31``."""
    runs = [
        [number for _, number in run] for _, run in groupby(enumerate(sorted(numbers)), lambda pair: pair[1] - pair[0])
    ]
    shown = [str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs[:_MAX_PLACES]]
    left = sum(map(len, runs[_MAX_PLACES:]))
    return ", ".join(shown) + (f" and {left:,} more" if left else "")
