"""What a verify receipt counts, and what its metrics are called."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bcpg_cluster.records import Outcome, OutcomeStatus

REWARDED = (OutcomeStatus.VERIFIED, OutcomeStatus.NO_ANSWER, OutcomeStatus.TRUNCATED)


@dataclass(frozen=True, slots=True)
class OutcomeCounts:
    """Samples that were verified.

    Attributes:
        unparsed: answers that were compared as text, since the verifier could not parse them.
        tokens: of all responses.
        rewards: sum of the rewards there are.
        by_status: statuses that occurred.
    """

    samples: int
    unparsed: int
    tokens: int
    rewards: float
    by_status: Mapping[OutcomeStatus, int]

    @classmethod
    def of(cls, outcomes: Sequence[Outcome], *, unparsed: int, tokens: int) -> OutcomeCounts:
        """Count the outcomes of a shard."""
        rewards = sum(outcome.reward for outcome in outcomes if outcome.reward is not None)
        return cls(len(outcomes), unparsed, tokens, rewards, Counter(outcome.status for outcome in outcomes))

    @classmethod
    def read(cls, metrics: Mapping[str, float]) -> OutcomeCounts:
        """From a receipt's metrics, or their sums."""
        counted = {status: int(metrics.get(_status(status), 0)) for status in OutcomeStatus}
        return cls(
            int(metrics.get("samples", 0)),
            int(metrics.get("unparsed", 0)),
            int(metrics.get("tokens", 0)),
            metrics.get("rewards", 0.0),
            {status: number for status, number in counted.items() if number},
        )

    def metrics(self) -> dict[str, float]:
        """As a receipt carries them."""
        counted = {_status(status): float(number) for status, number in self.by_status.items()}
        counted |= {"samples": float(self.samples), "unparsed": float(self.unparsed), "tokens": float(self.tokens)}
        return counted | {"rewards": self.rewards}

    @property
    def mean_reward(self) -> float | None:
        """Over the samples that have a reward; ``None`` where none has."""
        number = sum(self.by_status.get(status, 0) for status in REWARDED)
        return self.rewards / number if number else None


def _status(status: OutcomeStatus) -> str:
    return f"status.{status}"
