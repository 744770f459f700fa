"""What a judge's receipt counts of verdicts, and what its metrics are called."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from bcpg_cluster.records import Receipt, VerdictStatus

_STATUS = "status."


def status_metrics(statuses: Mapping[VerdictStatus, int]) -> dict[str, float]:
    """Steps by the status of their verdict, as a receipt carries them."""
    return {f"{_STATUS}{status}": float(number) for status, number in statuses.items()}


def verdict_statuses(metrics: Mapping[str, float]) -> Counter[VerdictStatus]:
    """Steps by the status of their verdict, from a receipt's metrics or their sums."""
    return Counter({status: int(metrics.get(f"{_STATUS}{status}", 0)) for status in VerdictStatus})


def num_requests(receipt: Receipt) -> float:
    """What a receipt took of its engine: a judge's calls; responses for a judge that does not count calls, and for rollouts."""
    metrics = receipt.metrics
    if "judge.calls" in metrics or "judge.calls.not_made" in metrics:
        return metrics.get("judge.calls", 0.0) - metrics.get("judge.calls.stored", 0.0)
    return metrics.get("samples", 0.0) - metrics.get("samples.not_asked", 0.0)
