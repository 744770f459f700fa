"""From what a run tells its observers to the metrics of ``catalog``. Where the numbers go is the sink's business."""

from __future__ import annotations

import math
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

from bcpg_cluster.cluster.state import PoolState
from bcpg_cluster.records import Receipt, VerdictStatus
from bcpg_cluster.stages.graph import MEASURING, ROLLOUT_POOL
from bcpg_cluster.stages.train.protocol import StepReport
from bcpg_cluster.stages.verify.counts import OutcomeCounts
from bcpg_cluster.stages.weigh.counts import WeighCounts
from bcpg_cluster.store.reports import PushFacts, RoundReport
from bcpg_cluster.watch.observer import (
    Event,
    Faulted,
    PoolsSeen,
    RoundFinished,
    ShardAccepted,
    StageProgress,
    StepTrained,
    WeightsPushed,
)
from bcpg_cluster.watch.report.round_report import judge_report

BUSY_WINDOW_S = 10.0
MEMBER_STATES = ("placing", "starting", "ready", "draining", "stalled")


class Sink(Protocol):
    """Where metrics go. ``tags`` are those of the metric in the catalog, all of them; ``run`` is the sink's own."""

    def add(self, name: str, amount: float, **tags: str) -> None:
        """Let a counter grow."""
        ...

    def set(self, name: str, value: float, **tags: str) -> None:
        """Give a gauge its present value."""
        ...


class RunMetrics:
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
        self._round: int | None = None
        self._busy: dict[str, deque[tuple[float, float, float]]] = {}
        for receipt in earlier:
            self._sum_up(receipt)

    def _sum_up(self, receipt: Receipt) -> Counter[str]:
        self._store_bytes += receipt.num_bytes
        sums = self._sums.setdefault((receipt.round, receipt.table), Counter())
        sums.update(receipt.metrics)
        return sums

    def hear(self, event: Event) -> None:
        """Bring what the event says into the metrics."""
        match event:
            case StageProgress():
                self._stage(event)
            case ShardAccepted(stage=stage, receipt=receipt):
                self._receipt(stage, receipt)
            case PoolsSeen(states=states):
                self._pools(states)
            case StepTrained(step=step):
                self._step(step)
            case WeightsPushed(version=version, facts=facts):
                self._push(version, facts)
            case Faulted(fault=fault):
                self._sink.add("bcpg_faults", fault.num_times, kind=str(fault.kind), pool=fault.pool or "none")
            case RoundFinished(report=report):
                self._report(report)

    def _stage(self, progress: StageProgress) -> None:
        if not (progress.stage in MEASURING and self._round == progress.round + 1):  # beside the next round's training
            self._round = progress.round
            self._sink.set("bcpg_round", progress.round)
        self._sink.set("bcpg_stage_done", progress.done, stage=progress.stage)
        self._sink.set("bcpg_stage_pieces", progress.total, stage=progress.stage)

    def _receipt(self, stage: str, receipt: Receipt) -> None:
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
            self._set_known("bcpg_reward", OutcomeCounts.read(sums).mean_reward)
        elif stage == "weigh":
            self._judges(WeighCounts.read(sums))
        elif stage.startswith("judge."):
            for status in VerdictStatus:
                if status.is_missing and metrics.get(f"status.{status}"):
                    lost = metrics[f"status.{status}"]
                    sink.add(
                        "bcpg_steps_without_verdict", lost, judge=stage.removeprefix("judge."), status=status.value
                    )

    def _judges(self, weighed: WeighCounts) -> None:
        self._set_known("bcpg_mined_share", weighed.mined_share)
        self._set_known("bcpg_mined_gradient_share", weighed.mined_gradient_share)
        for labels, right in weighed.right_steps.items():
            self._set_known("bcpg_uncertain_right_share", right.uncertain_share, labels=labels)
            self._set_known("bcpg_right_step_answers_share", right.answers_share, labels=labels)
            self._set_known("bcpg_right_prefix_share", right.prefix_share, labels=labels)
        said = judge_report(weighed, self._voters, self._measures)
        for pair, facts in said.agreement.items():
            self._set_known("bcpg_judge_agreement", facts.agreement, judges=pair)
            self._set_known("bcpg_judge_kappa", facts.kappa, judges=pair)
        for judge, by_measure in said.quality.items():
            for measure, quality in by_measure.items():
                self._set_known("bcpg_judge_precision", quality.tokens.precision, judge=judge, measure=measure)
                self._set_known("bcpg_judge_recall", quality.tokens.recall, judge=judge, measure=measure)

    def _set_known(self, name: str, value: float | None, **tags: str) -> None:
        """A gauge that nothing is known of keeps what it said before."""
        if value is not None and not math.isnan(value):
            self._sink.set(name, value, **tags)

    def _pools(self, states: Sequence[PoolState]) -> None:
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

    def _step(self, step: StepReport) -> None:
        """The telemetry of an optimiser step."""
        sink = self._sink
        sink.add("bcpg_samples", step.num_sequences, stage="train")
        sink.add("bcpg_tokens", step.num_tokens, stage="train")
        sink.set("bcpg_train_step", step.step + 1)
        sink.set("bcpg_train_steps", step.num_steps)
        self._set_known("bcpg_loss", step.loss)
        self._set_known("bcpg_grad_norm", step.grad_norm)
        self._set_known("bcpg_learning_rate", step.learning_rate)
        self._set_known("bcpg_entropy", step.entropy)
        self._set_known("bcpg_positive_mass", step.positive_mass)
        self._set_known("bcpg_delta_per_token", step.delta_per_token_right, tokens="right")
        self._set_known("bcpg_delta_per_token", step.delta_per_token_wrong, tokens="wrong")
        self._set_known("bcpg_delta_per_token", step.delta_per_token_mined, tokens="mined")
        self._set_known("bcpg_delta_per_token", step.delta_per_token_unmined, tokens="unmined")
        self._set_known("bcpg_clipped_share", step.clipped_up, direction="up")
        self._set_known("bcpg_clipped_share", step.clipped_down, direction="down")

    def _push(self, version: int, facts: PushFacts) -> None:
        """New weights, and how that was proven."""
        for weights in ("pushed", "served"):
            self._sink.set("bcpg_policy_version", version, weights=weights)
        self._sink.set("bcpg_push_seconds", facts.seconds)
        self._set_known("bcpg_push_worst_nats", facts.worst_nats)
        self._set_known("bcpg_push_separation_nats", facts.separation_nats)
        self._set_known("bcpg_push_cached_prefix_nats", facts.cached_prefix_nats)

    def _report(self, report: RoundReport) -> None:
        """A finished round."""
        if self._round != report.round + 1:
            self._sink.set("bcpg_round", report.round)
        self._sink.set("bcpg_round_seconds", report.round_seconds)
        if report.bound is not None:
            self._sink.set("bcpg_round_bound_seconds", report.bound.bound_s)
            self._sink.set("bcpg_round_took_seconds", report.bound.took_s)
        for pool, share in report.busy.items():
            self._sink.set("bcpg_round_busy_share", share, pool=pool)
        self._set_known("bcpg_accuracy", report.accuracy, decoding="sampled")
        self._set_known("bcpg_accuracy", report.accuracy_greedy, decoding="greedy")
        for key in [key for key in self._sums if key[0] < report.round]:
            del self._sums[key]
