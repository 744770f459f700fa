"""For people: what a run will do that is no error, said before anything starts."""

from __future__ import annotations

from bcpg_cluster.prompts.bad_rows import count_faults, describe_faults
from bcpg_cluster.prompts.sets import PromptSets


def skipped_notes(sets: PromptSets) -> list[str]:
    """What was left out of each set by ``prompts.skip_bad``: how many rows, why, and which."""
    lines = []
    for key, rows in sets.skipped.items():
        counted = ", ".join(f"{number} x {fault}" for fault, number in count_faults(rows).items())
        lines.append(f"{key}: {len(rows)} rows are left out ({counted})")
        lines += [f"    {line}" for line in describe_faults(rows)]
    return lines
