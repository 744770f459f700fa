"""Which column of a table holds the question, the gold answer and the id. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bcpg_cluster.errors import DataError

NAMES: Mapping[str, tuple[str, ...]] = {
    "question": ("question", "problem", "prompt", "query", "instruction", "input", "task", "text", "messages"),
    "answer": (
        "answer", "gold", "gold_answer", "ground_truth", "reward_model.ground_truth", "final_answer", "expected_answer",
        "correct_answer", "target", "label", "solution", "result", "output",
    ),
    "prompt_id": ("prompt_id", "id", "problem_id", "question_id", "unique_id", "uid"),
}  # fmt: skip
"""Usual names, best first; case does not count."""
_PARTS = {"question": ("question", "problem", "prompt"), "answer": ("answer", "gold", "truth"), "prompt_id": ()}


def guess_columns(
    rows: Sequence[Mapping[str, Any]], said: Mapping[str, str], source: str
) -> tuple[dict[str, str], list[str]]:
    """The mapping of ``question``, ``answer`` and, where one fits, ``prompt_id``; and a line for people on every guess.

    Args:
        rows: some of the table.
        said: columns that are known already, by our names.

    Raises:
        DataError: no column looks like a question or like an answer.
    """
    known = column_names(rows[0])
    found, told = dict(said), []
    for ours in ("question", "answer", "prompt_id"):
        if ours in found:
            continue
        guess = _by_name(ours, known, taken=found.values())
        if guess is None and ours != "prompt_id":
            guess = _by_length(ours, rows, known, taken=found.values())
        if guess is not None and (ours != "prompt_id" or _names_rows(rows, guess)):
            found[ours] = guess
            told.append(f"{ours}: column {guess!r}")
        elif ours != "prompt_id":
            raise DataError(
                f"{source}: no column looks like the {ours}; there are {', '.join(known)}",
                rule="a problem has a question and a gold answer",
                remedy=f"say which column it is: --column {ours}=NAME",
            )
    return found, told


def column_names(row: Mapping[str, Any]) -> list[str]:
    """A row's columns, with those inside objects as ``outer.inner``."""
    names = []
    for name, value in row.items():
        names += [f"{name}.{inner}" for inner in value] if isinstance(value, Mapping) else [str(name)]
    return names


def value_at(row: Mapping[str, Any], column: str) -> Any:
    """What a column holds, ``None`` where it is missing."""
    if column in row:
        return row[column]
    outer, _, inner = column.partition(".")
    value = row.get(outer)
    return value.get(inner) if isinstance(value, Mapping) else None


def _by_name(ours: str, known: Sequence[str], taken: Any) -> str | None:
    free = {name.lower(): name for name in reversed(known) if name not in taken}
    exact = next((free[name] for name in NAMES[ours] if name in free), None)
    return exact or next((free[name] for part in _PARTS[ours] for name in free if part in name), None)


def _by_length(ours: str, rows: Sequence[Mapping[str, Any]], known: Sequence[str], taken: Any) -> str | None:
    """Of a table with two columns of texts or numbers, the longer one is the question."""
    plain = [name for name in known if all(isinstance(value_at(row, name), (str, int, float)) for row in rows)]
    if len(plain) != 2:
        return None
    lengths = {name: sum(len(str(value_at(row, name))) for row in rows) for name in plain}
    chosen = (max if ours == "question" else min)(plain, key=lambda name: lengths[name])
    return None if chosen in taken or len(set(lengths.values())) == 1 else chosen


def _names_rows(rows: Sequence[Mapping[str, Any]], column: str) -> bool:
    """Whether every row has a value of its own there."""
    found = [value_at(row, column) for row in rows]
    values = ["" if value is None else str(value).strip() for value in found]
    return all(values) and len(set(values)) == len(values)
