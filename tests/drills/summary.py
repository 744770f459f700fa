"""What came of many drills: a table to read, and the same as data."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any

from tests.drills.records import Outcome, Result


def summary(results: Sequence[Result]) -> str:
    """Runs by target and blow, how they ended, what was lost, twice there or invented, and the longest silence."""
    heads = (
        "what was hit",
        "how",
        "runs",
        *(str(outcome) for outcome in Outcome),
        "lost",
        "twice",
        "invented",
        "silence, s",
    )
    rows = [heads]
    keys = list(dict.fromkeys((_target(result), result.drill.blow) for result in results))
    for key in sorted(keys):
        rows.append((*key, *_figures(result for result in results if (_target(result), result.drill.blow) == key)))
    rows.append(("all", "", *_figures(results)))
    widths = [max(len(row[column]) for row in rows) for column in range(len(heads))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in rows
    ]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines)


def _target(result: Result) -> str:
    drill = result.drill
    return {"file": "files", "link": "a host's link", "operation": "durable operations"}.get(drill.kind, drill.target)


def _figures(results: Iterable[Result]) -> list[str]:
    found = list(results)
    by_outcome = Counter(result.outcome for result in found)
    silences = [result.silence_s for result in found if result.silence_s is not None]
    return [
        str(len(found)),
        *(str(by_outcome[outcome]) for outcome in Outcome),
        str(sum(result.difference.lost for result in found)),
        str(sum(result.difference.duplicated for result in found)),
        str(sum(result.difference.invented for result in found)),
        f"{max(silences):.1f}" if silences else "",
    ]


def as_data(results: Sequence[Result]) -> list[dict[str, Any]]:
    """One plain object a drill."""
    return [asdict(result) for result in results]
