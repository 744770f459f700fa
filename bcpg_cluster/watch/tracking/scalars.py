"""What is told to a tracker: flat names and plain numbers. What is not known is left out, never 0."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from bcpg_cluster.records import Receipt


def step_scalars(step: Mapping[str, Any]) -> dict[str, float]:
    """An optimiser step (the fields of ``stages.train.protocol.StepReport``), as ``train/...``."""
    plain = {name: value for name, value in step.items() if name not in ("step", "num_steps", "loss_parts")}
    plain |= {f"loss_parts/{name}": value for name, value in step.get("loss_parts", {}).items()}
    return {f"train/{name}": value for name, value in _known(plain)}


def round_scalars(report: Mapping[str, Any]) -> dict[str, float]:
    """A round's report, as ``round/...``; round 0 is the base policy's evaluation.

    What a report says of single problems, and its lists of reasons, are left to the report.
    """
    kept = ("accuracy", "stderr", "accuracy_greedy", "stderr_greedy", "truncated_share", "mean_tokens", "mined_share")
    found: dict[str, Any] = {name: report.get(name) for name in kept}
    found |= {f"pass_at_{k}": estimate["mean"] for k, estimate in report.get("pass_at_k", {}).items()}
    for name, of_set in report.get("more_tests", {}).items():
        found[f"{name}/accuracy"] = of_set.get("accuracy")
        found[f"{name}/accuracy_greedy"] = of_set.get("accuracy_greedy")
    samples = report.get("samples", {})
    found |= {"samples_asked": samples.get("asked"), "samples_kept": samples.get("kept")}
    found |= {f"dropped/{reason}": number for reason, number in samples.get("dropped", {}).items()}
    judges = report.get("judges", {})
    for pair, facts in judges.get("agreement", {}).items():
        found |= {f"agreement/{pair}": facts["agreement"], f"kappa/{pair}": facts["kappa"]}
    for judge, by_measure in judges.get("quality", {}).items():
        for measure, units in by_measure.items():
            found |= {f"{what}/{judge}_vs_{measure}": units["tokens"][what] for what in ("precision", "recall")}
    push = report.get("push", {})
    names = ("seconds", "worst_nats", "separation_nats", "cached_prefix_nats")
    found |= {f"push_{name}": push.get(name) for name in names}
    found |= {f"tokens_per_s/{stage}": rate for stage, rate in report.get("tokens_per_s", {}).items()}
    found |= {f"seconds/{stage}": value for stage, value in report.get("seconds", {}).items()}
    return {f"round/{name}": value for name, value in _known(found)}


def _known(values: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    for name, value in values.items():
        if isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value):
            yield name, float(value)


class RoundTally:
    """What happens between two reports and is in neither: retries, bytes, how busy the pools were."""

    def __init__(self) -> None:
        self._retries, self._bytes = 0, 0
        self._looks: dict[str, tuple[float, float]] = {}  # busy and ready seconds by pool
        self._before: dict[str, tuple[float, float]] = {}

    def retry(self) -> None:
        """One more."""
        self._retries += 1

    def receipt(self, receipt: Receipt) -> None:
        """One more accepted shard."""
        self._bytes += receipt.num_bytes

    def pool(self, name: str, busy_s: float, ready_s: float) -> None:
        """A pool's seconds since its start."""
        self._looks[name] = (busy_s, ready_s)

    def take(self) -> dict[str, float]:
        """The round's sums, as ``round/...``; counting starts anew."""
        found = {"round/retries": float(self._retries), "round/store_bytes": float(self._bytes)}
        for name, (busy, ready) in self._looks.items():
            busy_before, ready_before = self._before.get(name, (0.0, 0.0))
            if ready > ready_before:
                found[f"round/busy_share/{name}"] = min((busy - busy_before) / (ready - ready_before), 1.0)
        self._retries, self._bytes, self._before = 0, 0, dict(self._looks)
        return found
