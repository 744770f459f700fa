"""What two reports of one round have in common when all went well in both."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bcpg_cluster.store.reports import RoundReport

_OF_THE_CLOCK = {"seconds", "tokens_per_s", "evaluation_tokens_per_s", "hidden", "bound", "busy"}


def what_counts(report: Mapping[str, Any] | RoundReport, *, faults: bool = True) -> dict[str, Any]:
    """A report without what depends on the clock, or on how the weights travelled.

    Args:
        faults: also what went wrong and was dealt with.
    """
    plain = report.plain() if isinstance(report, RoundReport) else report
    left_out = _OF_THE_CLOCK | {"push"} | (set() if faults else {"faults"})
    found = {key: value for key, value in plain.items() if key not in left_out}
    if plain.get("train"):
        found["train"] = {key: value for key, value in plain["train"].items() if not key.endswith("_s")}
    if plain.get("push"):
        found["canaries"] = plain["push"]["canaries"]
    return found
