"""What a generate or evaluate receipt counts, and what its metrics are called."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from bcpg_cluster.records import StopReason


@dataclass(frozen=True, slots=True)
class RolloutCounts:
    """Samples asked for, the tokens of their responses, and why they ended."""

    samples: int
    tokens: int
    stopped: Mapping[StopReason, int]

    @property
    def drawn(self) -> int:
        """Samples whose prompt left room for a response."""
        return self.samples - self.stopped[StopReason.PROMPT_TOO_LONG]

    @classmethod
    def of(cls, responses: Iterable[tuple[int, StopReason]]) -> RolloutCounts:
        """Count responses, each given by its number of tokens and why it ended."""
        drawn = list(responses)
        stopped = {reason: sum(found is reason for _, found in drawn) for reason in StopReason}
        return cls(len(drawn), sum(tokens for tokens, _ in drawn), stopped)

    @classmethod
    def read(cls, metrics: Mapping[str, float]) -> RolloutCounts:
        """From a receipt's metrics, or their sums."""
        stopped = {reason: int(metrics.get(_stopped(reason), 0)) for reason in StopReason}
        return cls(int(metrics.get("samples", 0)), int(metrics.get("tokens", 0)), stopped)

    def metrics(self) -> dict[str, float]:
        """As a receipt carries them."""
        counted = {"samples": self.samples, "tokens": self.tokens}
        counted |= {_stopped(reason): number for reason, number in self.stopped.items()}
        return {name: float(number) for name, number in counted.items()}


def _stopped(reason: StopReason) -> str:
    return f"stop.{reason}"
