"""From what a run tells its observers to the metrics of ``catalog``. Where the numbers go is the sink's business."""

from __future__ import annotations

import math
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol

from bcpg_cluster.cluster.state import PoolState
from bcpg_cluster.records import OutcomeStatus, Receipt, VerdictStatus
from bcpg_cluster.stages.graph import ROLLOUT_POOL
from bcpg_cluster.watch.observer import SilentObserver
from bcpg_cluster.watch.report.round_report import judge_report

BUSY_WINDOW_S = 10.0
MEMBER_STATES = ("placing", "starting", "ready", "draining")
_REWARDED = (OutcomeStatus.VERIFIED, OutcomeStatus.NO_ANSWER, OutcomeStatus.TRUNCATED)


class Sink(Protocol):
    """Where metrics go. ``tags`` are those of the metric in the catalog, all of them; ``run`` is the sink's own."""

    def add(self, name: str, amount: float, **tags: str) -> None:
        """Let a counter grow."""
        ...

    def set(self, name: str, value: float, **tags: str) -> None:
        """Give a gauge its present value."""
        ...


class RunMetrics(SilentObserver):
    """An observer that keeps a run's metrics up to date.

    Args:
        voters, measures: judges by role, as ``watch.report.round_report.judge_report`` takes them.
        earlier: receipts that were accepted before this process. They count in gauges that speak of a whole round or run;
            counters count what this process saw.
        clock: seconds, for the window of ``busy_share``.
    """

    def __init__(
        self,
        sink: Sink,
        *,
        voters: Sequence[str],
        measures: Sequence[str],
        earlier: Iterable[Receipt] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._sink, self._clock = sink, clock
        self._voters, self._measures = tuple(voters), tuple(measures)
        self._sums: dict[tuple[int, str], Counter[str]] = {}  # of receipts' metrics, by round and table
        self._store_bytes = 0
        self._busy: dict[str, deque[tuple[float, float, float]]] = {}
        for receipt in earlier:
            self._sum_up(receipt)

    def _sum_up(self, receipt: Receipt) -> Counter[str]:
        self._store_bytes += receipt.num_bytes
        sums = self._sums.setdefault((receipt.round, receipt.table), Counter())
        sums.update(receipt.metrics)
        return sums

    def stage(self, round_: int, name: str, done: int, total: int) -> None:
        """How far a stage is."""
        self._sink.set("bcpg_round", round_)
        self._sink.set("bcpg_stage_done", done, stage=name)
        self._sink.set("bcpg_stage_pieces", total, stage=name)

    def receipt(self, round_: int, stage: str, receipt: Receipt) -> None:
        """What a stage delivered, and what can be said of the round's rewards and judges by now."""
        sink, metrics = self._sink, receipt.metrics
        sums = self._sum_up(receipt)
        sink.add("bcpg_shards", 1, stage=stage)
        sink.add("bcpg_shard_seconds", receipt.seconds, stage=stage)
        samples = metrics.get("samples", metrics.get("asked"))
        for name, amount in (("bcpg_samples", samples), ("bcpg_tokens", metrics.get("tokens"))):
            if amount:
                sink.add(name, amount, stage=stage)
        sink.set("bcpg_store_bytes", self._store_bytes)
        if stage == "verify":
            rewarded = sum(sums[f"status.{status}"] for status in _REWARDED)
            if rewarded:
                sink.set("bcpg_reward", sums["rewards"] / rewarded)
        elif stage == "weigh":
            self._judges(sums)
        elif stage.startswith("judge."):
            for status in VerdictStatus:
                if status is not VerdictStatus.JUDGED and metrics.get(f"status.{status}"):
                    lost = metrics[f"status.{status}"]
                    sink.add(
                        "bcpg_steps_without_verdict", lost, judge=stage.removeprefix("judge."), status=status.value
                    )

    def _judges(self, weighed: Mapping[str, float]) -> None:
        wrong = weighed.get("tokens.wrong")
        if wrong:
            self._sink.set("bcpg_mined_share", weighed.get("tokens.mined", 0.0) / wrong)
        said = judge_report(weighed, self._voters, self._measures)
        for pair, facts in said["agreement"].items():
            self._set_known("bcpg_judge_agreement", facts["agreement"], judges=pair)
            self._set_known("bcpg_judge_kappa", facts["kappa"], judges=pair)
        for judge, by_measure in said["quality"].items():
            for measure, units in by_measure.items():
                for what in ("precision", "recall"):
                    self._set_known(f"bcpg_judge_{what}", units["tokens"][what], judge=judge, measure=measure)

    def _set_known(self, name: str, value: float | None, **tags: str) -> None:
        """A gauge that nothing is known of keeps what it said before."""
        if value is not None and not math.isnan(value):
            self._sink.set(name, value, **tags)

    def pools(self, states: Sequence[PoolState]) -> None:
        """Sizes, queues, and how busy the pools are."""
        sink = self._sink
        for pool in states:
            sink.set("bcpg_queue_depth", pool.num_queued, pool=pool.name)
            sink.set("bcpg_leases", pool.num_leased, pool=pool.name)
            sink.set("bcpg_pool_size", pool.size, pool=pool.name)
            for state in MEMBER_STATES:
                sink.set("bcpg_pool_members", pool.count(state), pool=pool.name, state=state)
            self._set_known("bcpg_busy_share", self._busy_share(pool), pool=pool.name)
            versions = [member.policy_version for member in pool.members if member.policy_version is not None]
            if pool.name == ROLLOUT_POOL and versions:
                sink.set("bcpg_policy_version", min(versions), weights="served")

    def _busy_share(self, pool: PoolState) -> float | None:
        """Over the last ``BUSY_WINDOW_S``; ``None`` when no member was ready in that time."""
        now = self._clock()
        looks = self._busy.setdefault(pool.name, deque([(now, 0.0, 0.0)]))
        looks.append((now, pool.busy_s, pool.ready_s))
        while len(looks) > 2 and now - looks[1][0] >= BUSY_WINDOW_S:
            looks.popleft()
        busy, ready = pool.busy_s - looks[0][1], pool.ready_s - looks[0][2]
        return min(max(busy / ready, 0.0), 1.0) if ready > 0 else None

    def train_step(self, round_: int, step: Mapping[str, Any]) -> None:
        """The telemetry of an optimiser step (fields of ``stages.train.protocol.StepReport``)."""
        sink = self._sink
        sink.add("bcpg_samples", step["num_sequences"], stage="train")
        sink.add("bcpg_tokens", step["num_tokens"], stage="train")
        sink.set("bcpg_train_step", step["step"] + 1)
        sink.set("bcpg_train_steps", step["num_steps"])
        for name in ("loss", "grad_norm", "learning_rate", "entropy", "positive_mass"):
            self._set_known(f"bcpg_{name}", step[name])
        for tokens in ("right", "wrong", "mined", "unmined"):
            self._set_known("bcpg_delta_per_token", step[f"delta_per_token_{tokens}"], tokens=tokens)
        for direction in ("up", "down"):
            self._set_known("bcpg_clipped_share", step[f"clipped_{direction}"], direction=direction)

    def push(self, version: int, facts: Mapping[str, Any]) -> None:
        """New weights, and how that was proven."""
        for weights in ("pushed", "served"):
            self._sink.set("bcpg_policy_version", version, weights=weights)
        self._sink.set("bcpg_push_seconds", facts["seconds"])
        for name in ("worst_nats", "separation_nats", "cached_prefix_nats"):
            self._set_known(f"bcpg_push_{name}", facts[name])

    def retry(self, what: str, why: str) -> None:
        """Something was lost."""
        self._sink.add("bcpg_retries", 1)

    def report(self, round_: int, report: dict[str, Any]) -> None:
        """A finished round."""
        self._sink.set("bcpg_round", round_)
        self._sink.set("bcpg_round_seconds", report["seconds"]["round"])
        self._set_known("bcpg_accuracy", report.get("accuracy"), decoding="sampled")
        self._set_known("bcpg_accuracy", report.get("accuracy_greedy"), decoding="greedy")
        for key in [key for key in self._sums if key[0] < round_]:
            del self._sums[key]
