"""What is told to a tracker: flat names and plain numbers. What is not known is left out, never 0."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any

from bcpg_cluster.records import Receipt
from bcpg_cluster.stages.train.protocol import StepReport
from bcpg_cluster.store.reports import RoundReport


def step_scalars(step: StepReport) -> dict[str, float]:
    """An optimiser step, as ``train/...``."""
    plain = asdict(step)
    for left_out in ("step", "num_steps", "loss_parts"):
        del plain[left_out]
    plain |= {f"loss_parts/{name}": value for name, value in step.loss_parts.items()}
    return {f"train/{name}": value for name, value in _known(plain)}


def round_scalars(report: RoundReport) -> dict[str, float]:
    """A round's report, as ``round/...``; round 0 is the base policy's evaluation.

    What a report says of single problems, and its lists of reasons, are left to the report.
    """
    kept = ("accuracy", "stderr", "accuracy_greedy", "stderr_greedy", "truncated_share", "mean_tokens", "mined_share",
            "mined_gradient_share", "uncertain_right_share")  # fmt: skip
    found: dict[str, Any] = {name: getattr(report, name) for name in kept}
    found |= {f"pass_at_{k}": estimate.mean for k, estimate in report.pass_at_k.items()}
    for name, of_set in report.more_tests.items():
        found |= {f"{name}/accuracy": of_set.accuracy, f"{name}/accuracy_greedy": of_set.accuracy_greedy}
    if report.samples is not None:
        found |= {"samples_asked": report.samples.asked, "samples_kept": report.samples.kept}
        found |= {f"dropped/{reason}": number for reason, number in report.samples.dropped.items()}
    for labels, right in report.right_steps.items():
        shares = ("uncertain_share", "answers_share", "prefix_share")
        found |= {f"right_steps/{labels}/{name}": getattr(right, name) for name in shares}
    if report.judges is not None:
        for pair, facts in report.judges.agreement.items():
            found |= {f"agreement/{pair}": facts.agreement, f"kappa/{pair}": facts.kappa}
        for judge, by_measure in report.judges.quality.items():
            for measure, quality in by_measure.items():
                found[f"precision/{judge}_vs_{measure}"] = quality.tokens.precision
                found[f"recall/{judge}_vs_{measure}"] = quality.tokens.recall
    if report.push is not None:
        for name in ("seconds", "worst_nats", "separation_nats", "cached_prefix_nats"):
            found[f"push_{name}"] = getattr(report.push, name)
    if report.bound is not None:
        found |= {"bound_seconds": report.bound.bound_s, "bound_ratio": report.bound.ratio}
    found |= {f"tokens_per_s/{stage}": rate for stage, rate in report.tokens_per_s.items()}
    found |= {f"seconds/{stage}": value for stage, value in report.seconds.items()}
    return {f"round/{name}": value for name, value in _known(found)}


def _known(values: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    for name, value in values.items():
        if isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value):
            yield name, float(value)


class RoundTally:
    """What happens between two reports and is in neither: faults, bytes, how busy the pools were."""

    def __init__(self) -> None:
        self._faults, self._bytes = 0, 0
        self._looks: dict[str, tuple[float, float]] = {}  # busy and ready seconds by pool
        self._before: dict[str, tuple[float, float]] = {}

    def fault(self, num_times: int) -> None:
        """Some more."""
        self._faults += num_times

    def receipt(self, receipt: Receipt) -> None:
        """One more accepted shard."""
        self._bytes += receipt.num_bytes

    def pool(self, name: str, busy_s: float, ready_s: float) -> None:
        """A pool's seconds since its start."""
        self._looks[name] = (busy_s, ready_s)

    def take(self) -> dict[str, float]:
        """The round's sums, as ``round/...``; counting starts anew."""
        found = {"round/faults": float(self._faults), "round/store_bytes": float(self._bytes)}
        for name, (busy, ready) in self._looks.items():
            busy_before, ready_before = self._before.get(name, (0.0, 0.0))
            if ready > ready_before:
                found[f"round/busy_share/{name}"] = min((busy - busy_before) / (ready - ready_before), 1.0)
        self._faults, self._bytes, self._before = 0, 0, dict(self._looks)
        return found
