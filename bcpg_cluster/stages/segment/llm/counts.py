"""What a segmenter that asks a model counts of the responses it could not use an answer for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

FALLBACK: Final = "llm.fallback."
"""Before the reason (``unreadable``, ``refused``), in the name of the count of responses that the fallback cut."""


def fallbacks(counts: Mapping[str, float]) -> dict[str, float]:
    """Of a segmenter's counts, how many responses the fallback cut, by reason; empty where it cut none."""
    return {name.removeprefix(FALLBACK): number for name, number in counts.items() if name.startswith(FALLBACK)}
