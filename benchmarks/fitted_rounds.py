"""Rounds in simulated time with the latencies of a finished run, for ``round_overlap.py``.

The data half and the evaluation run through the real ``Dataflow``, pools and manifest, on a clock that jumps from event to event;
members only let time pass. The trainers are arithmetic: the reference pass, the optimiser steps and the push take what they took in
the run. Every member has cores of its own: what pools took from each other in the run is in the latencies, and stays there.

Two orders: ``serial`` does data, reference pass, training, push and evaluation one after the other. ``overlapped`` opens the
trainers while data is made, has them work on the reference log-probs of a shard as soon as it is verified, and evaluates version n
while round n + 1 trains; the push waits for both.
"""

from __future__ import annotations

import heapq
import math
import random
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from simulated_members import MemberOnClock, SimulatedTime, receipt_of

from bcpg_cluster.cluster.leases import PoolLimits
from bcpg_cluster.cluster.pool import Pool
from bcpg_cluster.cluster.runtime import MemberSpec
from bcpg_cluster.config.run import Config
from bcpg_cluster.records import Receipt
from bcpg_cluster.run.dataflow import Dataflow
from bcpg_cluster.stages.graph import REFERENCE, StageSpec, evaluation_stages
from bcpg_cluster.stages.job import StageJob
from bcpg_cluster.store.manifest import Manifest, ManifestState
from bcpg_cluster.store.reports import PushFacts, RoundBound, TrainingSummary
from bcpg_cluster.watch.observer import Event, Observers, ShardAccepted
from bcpg_cluster.watch.report.round_bound import layout_of
from bcpg_cluster.watch.round_ledger import RoundLedger

Order = Literal["serial", "overlapped"]
ORDERS: tuple[Order, ...] = ("serial", "overlapped")


@dataclass(frozen=True, slots=True)
class TrainerTimes:
    """What one round of the run took beside its data and its evaluation."""

    open_s: float
    reference_s: float
    train_s: float
    push_s: float


@dataclass(frozen=True, slots=True)
class Fit:
    """What is simulated.

    Attributes:
        latencies: by stage, the median of its receipts' seconds and the deviation of their logarithm.
        trainers: of the run's rounds in their order; a longer simulation begins with the first again.
    """

    num_shards: int
    num_eval_shards: int
    latencies: Mapping[str, tuple[float, float]]
    trainers: tuple[TrainerTimes, ...]

    def seconds(self, job: StageJob, seed: int) -> float:
        """Of one shard of a stage; the same whoever works on it, and when."""
        median, sigma = self.latencies[job.stage]
        return median * math.exp(sigma * random.Random(f"{seed}/{job.round}/{job.stage}/{job.shard}").gauss(0.0, 1.0))

    def trainer(self, round_: int) -> TrainerTimes:
        """Of a simulated round."""
        return self.trainers[(round_ - 1) % len(self.trainers)]


def fit_of(state: ManifestState, config: Config) -> Fit:
    """From the receipts and reports of a finished run.

    Raises:
        ValueError: it has no round that trained and pushed.
    """
    stages = {spec.output: spec.name for spec in (*config.data_stages, *evaluation_stages())}
    seconds: dict[str, list[float]] = defaultdict(list)
    for (_, table), shards in state.shards.items():
        if table in stages:
            seconds[stages[table]] += [max(receipt.seconds, 1e-4) for receipt in shards.values()]
    trained = [
        TrainerTimes(
            train.open_s or 0.0,
            train.reference_s or 0.0,
            train.train_s + (train.snapshot_s or 0.0),
            report.push.seconds,
        )
        for _, report in sorted(state.reports.items())
        if (train := report.train) is not None and train.train_s is not None and report.push is not None
    ]
    if not trained:
        raise ValueError("no round of the run trained and pushed")
    latencies = {}
    for stage, measured in seconds.items():
        logs = [math.log(value) for value in measured]
        latencies[stage] = statistics.median(measured), statistics.pstdev(logs)
    counted = len(state.shards[1, "prompts"]), len(state.shards[1, "eval_prompts"])
    return Fit(*counted, latencies, tuple(trained))


class FittedMember(MemberOnClock):
    """Works on so many leases at once, each for as long as it was measured with as many at once."""

    def __init__(
        self, spec: MemberSpec, time_: SimulatedTime, fit: Fit, seed: int, num_leases: int, lease_s: float
    ) -> None:
        super().__init__(spec.name)
        self._time, self._fit, self._seed, self._lease_s = time_, fit, seed, lease_s
        self._free_at = [0.0] * num_leases

    def work(self, job: StageJob, done: Callable[[Receipt], object]) -> None:
        """See :class:`MemberOnClock`; the way to the member and back comes on top."""
        seconds = self._fit.seconds(job, self._seed)
        ends = max(heapq.heappop(self._free_at), self._time.now) + seconds
        heapq.heappush(self._free_at, ends)
        self._time.at(ends + self._lease_s, lambda: done(receipt_of(job, seconds)))


class FittedRuntime:
    """Members that live on a simulated clock.

    Args:
        lease_s: what the way of a lease to its member and back takes.
    """

    def __init__(self, time_: SimulatedTime, fit: Fit, seed: int, leases: Mapping[str, int], lease_s: float) -> None:
        self._time, self._fit, self._seed, self._leases, self._lease_s = time_, fit, seed, leases, lease_s

    def start(self, spec: MemberSpec) -> FittedMember:
        """Ready at once."""
        num_leases = self._leases[spec.name.partition("/")[0]]
        return FittedMember(spec, self._time, self._fit, self._seed, num_leases, self._lease_s)

    def shutdown(self) -> None:
        """Nothing runs."""


class Trainers:
    """The trainer group's reference pass: an observer that begins with a shard as soon as it is verified."""

    def __init__(self, time_: SimulatedTime, ledger: RoundLedger, num_shards: int, lease_s: float) -> None:
        self._time, self._ledger, self._num_shards, self._lease_s = time_, ledger, num_shards, lease_s
        self._seconds = 0.0
        self.free_at = 0.0

    def open(self, times: TrainerTimes) -> None:
        """Get ready for a round, beside its data half."""
        self._seconds = times.reference_s / self._num_shards
        self.free_at = self._time.now + times.open_s

    def hear(self, event: Event) -> None:
        """The next shard of the reference pass."""
        if isinstance(event, ShardAccepted) and event.stage == "verify":
            self.free_at = max(self.free_at, self._time.now + self._lease_s) + self._seconds
            done = tell_reference(event.receipt.round, event.receipt.shard, self._seconds)
            self._time.at(self.free_at, lambda: self._ledger.hear(done))


def tell_reference(round_: int, shard: int, seconds: float) -> ShardAccepted:
    """A piece of the reference pass is accepted."""
    job = StageJob("", REFERENCE, REFERENCE, round_, shard, f"{shard:08x}", {})
    return ShardAccepted(round_, REFERENCE, receipt_of(job, seconds))


@dataclass(frozen=True, slots=True)
class SimulatedRound:
    """One round's turn.

    Attributes:
        reference_hidden, evaluation_hidden: shares of the reference pass and of the evaluation that took no time of their own; the
            evaluation is that of the version before, and ``None`` where none overlapped.
        driver_cpu_s: really spent by this process, on everything but members.
        num_leases: given out in the round's turn.
    """

    bound: RoundBound
    busy: Mapping[str, float]
    reference_hidden: float
    evaluation_hidden: float | None
    driver_cpu_s: float
    num_leases: int


@dataclass(frozen=True, slots=True)
class SimulatedRun:
    """Some rounds, and the seconds from the beginning of the first to the last version's evaluation."""

    rounds: Sequence[SimulatedRound]
    wall_s: float


class Simulation:
    """A run in one of both orders. See the module's docstring."""

    def __init__(
        self, config: Config, fit: Fit, order: Order, manifest: Manifest, *, seed: int, lease_s: float
    ) -> None:
        self._config, self._fit, self._order, self._manifest, self._lease_s = config, fit, order, manifest, lease_s
        self._time = SimulatedTime()
        self._ledger = RoundLedger(layout_of(config), clock=self._time.clock)
        self._trainers = Trainers(self._time, self._ledger, fit.num_shards, lease_s)
        names = [name for name in config.pool_names() if name != "trainer"]
        leases = {name: config.pool(name).leases_per_member for name in names}
        runtime = FittedRuntime(self._time, fit, seed, leases, lease_s)
        self._pools = {
            name: Pool(
                name,
                runtime,
                lambda k, name=name: MemberSpec(f"{name}/{k}", dict, {}),
                PoolLimits(leases_per_member=leases[name]),
                clock=self._time.clock,
            )
            for name in names
        }
        for name, pool in self._pools.items():
            pool.resize(config.pool(name).members)

    def run(self, num_rounds: int) -> SimulatedRun:
        """Simulate rounds 1 to ``num_rounds``, the base policy being evaluated already."""
        rounds = [self._round(round_, is_last=round_ == num_rounds) for round_ in range(1, num_rounds + 1)]
        return SimulatedRun(rounds, self._time.now)

    def _round(self, round_: int, *, is_last: bool) -> SimulatedRound:
        times, began, is_serial = self._fit.trainer(round_), self._time.now, self._order == "serial"
        self._ledger.begin(round_)
        self._trainers.open(times)
        cpu_s = self._flow(round_, self._config.data_stages, "prompts", self._fit.num_shards)
        data_ended = self._time.now
        evaluation_hidden = None
        if is_serial:
            self._time.let_pass(times.open_s + times.reference_s)
            self._ledger.hear(tell_reference(round_, 0, times.reference_s))
            referenced = self._time.now
            self._time.let_pass(times.train_s)
        else:
            referenced = max(self._trainers.free_at, data_ended)
            trained = referenced + times.train_s
            if round_ > 1:
                cpu_s += self._evaluate(round_ - 1)
                took, alone = self._time.now - data_ended, max(self._time.now - trained, 0.0)
                evaluation_hidden = 1.0 - alone / took
            self._time.let_pass(max(trained - self._time.now, 0.0))
        self._time.let_pass(times.push_s)
        pushed = self._time.now
        if is_serial:
            cpu_s += self._evaluate(round_)
        account = self._ledger.account(round_, self._manifest.state, *told(times))
        if not is_serial and is_last:
            self._evaluate(round_)  # nothing is left that it could hide behind
        assert account.bound is not None
        assert account.bound.took_s == (self._time.now if is_serial else pushed) - began
        alone = max(referenced - data_ended - (times.open_s if is_serial else 0.0), 0.0)
        num_leases = len(self._config.data_stages) * self._fit.num_shards
        if is_serial or round_ > 1:
            num_leases += len(evaluation_stages()) * self._fit.num_eval_shards
        return SimulatedRound(
            account.bound,
            account.busy,
            1.0 - alone / times.reference_s if times.reference_s else 1.0,
            0.0 if is_serial else evaluation_hidden,
            cpu_s,
            num_leases,
        )

    def _evaluate(self, version: int) -> float:
        return self._flow(version, evaluation_stages(), "eval_prompts", self._fit.num_eval_shards)

    def _flow(self, round_: int, stages: Sequence[StageSpec], prompts: str, num_shards: int) -> float:
        """Map stages through the real data flow; the CPU seconds that this process took for it."""
        cpu = time.process_time()
        jobs = (StageJob("", prompts, prompts, round_, shard, f"{shard:08x}", {}) for shard in range(num_shards))
        self._manifest.accept_all([replace(receipt_of(job, 0.0), num_rows=1) for job in jobs])
        listening = [self._ledger] if self._order == "serial" else [self._ledger, self._trainers]
        Dataflow(
            self._manifest, self._pools, stages, round_, num_shards, {"policy_version": round_ - 1},
            observer=Observers(listening), clock=self._time.clock, bell=self._time,
        ).run()  # fmt: skip
        return time.process_time() - cpu


def told(times: TrainerTimes) -> tuple[TrainingSummary, PushFacts]:
    """What a round's report says of its training and its push."""
    training = TrainingSummary(steps=1.0, train_s=times.train_s, snapshot_s=0.0, reference_s=times.reference_s)
    facts = {
        "worst_nats": 0.0,
        "separation_nats": 1.0,
        "cached_prefix_nats": None,
        "canaries": "simulated",
        "proof_s": 0.0,
    }
    return training, PushFacts(method="simulated", why="", seconds=times.push_s, num_members=1, **facts)


def simulate(
    config: Config, fit: Fit, order: Order, run_dir: Path, *, num_rounds: int, seed: int, lease_s: float
) -> SimulatedRun:
    """A run in an empty directory."""
    with Manifest(run_dir) as manifest:
        return Simulation(config, fit, order, manifest, seed=seed, lease_s=lease_s).run(num_rounds)
