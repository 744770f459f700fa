"""Members without engines, for ``scale_simulation.py``: they answer at once, sleep, or live on a clock of their own.

All of them do what a round's stages would leave behind: a receipt for every shard, with as many metrics as real ones have.
The latencies are fitted to measured ones: the receipts of the five runs of ``benchmarks/learning.py`` (docs/results.md).
"""

from __future__ import annotations

import heapq
import itertools
import math
import random
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bcpg_cluster.cluster.runtime import Member, MemberSpec, Runtime
from bcpg_cluster.records import Receipt
from bcpg_cluster.stages.job import StageJob, StageResult, StageWorker, Tables
from bcpg_cluster.store.layout import shard_path
from bcpg_cluster.store.shards import write_shard

SAMPLES = 512  # of a shard

# Seconds a member works on a shard of 512 samples: median, and the deviation of their logarithm.
LATENCY = {
    "generate": (5.78, 0.36),
    "evaluate": (2.09, 0.40),
    "verify": (0.030, 0.44),
    "verify_evaluation": (0.016, 0.79),
    "segment": (0.044, 0.58),
    "judge.llm": (1.42, 0.64),
    "judge.prm": (0.53, 0.56),
    "weigh": (0.11, 0.57),
}


def latency(stage: str, seed: int, shard: int) -> float:
    """Seconds of one shard; the same for the same shard, whoever works on it."""
    median, sigma = LATENCY[stage]
    return median * math.exp(sigma * random.Random(f"{seed}/{stage}/{shard}").gauss(0.0, 1.0))


def mean_latency(stage: str) -> float:
    """Of the log-normal fitted to a stage."""
    median, sigma = LATENCY[stage]
    return median * math.exp(sigma**2 / 2)


def metrics_of(stage: str) -> dict[str, float]:
    """As many as real receipts have. No group is kept, so that a round ends without training."""
    metrics = {"samples": float(SAMPLES), "tokens": 30_000.0}
    if stage in ("generate", "evaluate"):
        metrics |= {"stop.stop": 500.0, "stop.length": 12.0, "stop.aborted": 0.0}
    elif stage == "weigh":
        metrics |= {"asked": float(SAMPLES), "kept": 0.0, "dropped.all_wrong": float(SAMPLES), "groups_kept": 0.0}
        cells = itertools.product(("llm", "prm", "consensus"), ("right", "wrong"), ("right", "wrong", "none"))
        for name, truth, said in cells:
            metrics |= {f"quality.{name}.truth.{truth}.{said}.{unit}": 321.0 for unit in ("tokens", "steps")}
    return metrics


def receipt_of(job: StageJob, seconds: float) -> Receipt:
    """For a shard that nobody wrote."""
    path = shard_path(job.round, job.output, job.shard, job.attempt)
    metrics = metrics_of(job.stage)
    return Receipt(job.output, job.round, job.shard, job.attempt, path, SAMPLES, 85_517, "c" * 64, seconds, metrics)


class NoEngine:
    """What control calls reach: it holds a version and nothing else."""

    def __init__(self, policy_version: int) -> None:
        self.policy_version = policy_version

    def load_snapshot(self, path: str, version: int) -> dict[str, str]:
        """Take over a version."""
        self.policy_version = version
        return {}

    def close(self) -> None:
        """Nothing to free."""


def host_simulated(policy_version: int, seed: int, time_scale: float) -> StageWorker:
    """A worker that reads its input shards, sleeps one shard after the other as an engine of fixed speed would, and writes."""
    engine = threading.Lock()

    def work(tables: Tables, job: StageJob) -> StageResult:
        with engine:
            time.sleep(time_scale * latency(job.stage, seed, job.shard))
        return StageResult([], metrics_of(job.stage))

    return StageWorker(dict.fromkeys(LATENCY, work), NoEngine(policy_version))


class EmptyWorker(StageWorker):
    """A worker that answers every job with a receipt, and neither reads nor writes."""

    def run(self, job: StageJob) -> Receipt:
        """At once."""
        return receipt_of(job, 0.0)


def host_empty(policy_version: int, seed: int, time_scale: float) -> StageWorker:
    """A worker whose leases cost nothing but themselves."""
    return EmptyWorker({}, NoEngine(policy_version))


class Sleepers:
    """A runtime whose members sleep: another runtime's, with what they host replaced. The trainer group stays as it is."""

    def __init__(self, runtime: Runtime, *, seed: int, time_scale: float) -> None:
        self._runtime, self._seed, self._time_scale = runtime, seed, time_scale

    def start(self, spec: MemberSpec) -> Member:
        """As the other runtime."""
        if not spec.name.startswith("trainer"):
            version = spec.arguments.get("policy_version", 0)
            arguments = {"policy_version": version, "seed": self._seed, "time_scale": self._time_scale}
            spec = replace(spec, factory=host_simulated, arguments=arguments, num_cpus=0.0, env={})
        return self._runtime.start(spec)

    def members_must_see(self, mark: Any) -> None:
        """As the other runtime."""
        self._runtime.members_must_see(mark)

    def shutdown(self) -> None:
        """As the other runtime."""
        self._runtime.shutdown()


class InstantMember:
    """Answers every call before it returns."""

    def __init__(self, spec: MemberSpec) -> None:
        self.name = spec.name
        self._engine = NoEngine(spec.arguments.get("policy_version", 0))

    def call(self, method: str, /, *args: Any, control: bool = False, label: str = "") -> Future[Any]:
        """Settled at once."""
        answer: Future[Any] = Future()
        answer.set_result(getattr(self, method)(*args))
        return answer

    def ping(self) -> str:
        """Ready."""
        return "ready"

    def run(self, job: StageJob) -> Receipt:
        """A receipt; the coordinator reads the outcomes of evaluations, so these are written."""
        receipt = receipt_of(job, 0.0)
        if job.output != "eval_outcomes":
            return receipt
        facts = {"table": job.output, "round_": job.round, "shard": job.shard, "attempt": job.attempt}
        return write_shard(Path(job.run_dir), **facts, rows=[], seconds=0.0, metrics=receipt.metrics)

    def engine_call(self, method: str, *args: Any) -> Any:
        """As of a real worker."""
        attribute = getattr(self._engine, method)
        return attribute(*args) if callable(attribute) else attribute

    def kill(self) -> None:
        """Nothing runs."""


class Instant:
    """A runtime in which all of the time is the driver's own."""

    def start(self, spec: MemberSpec) -> InstantMember:
        """Ready at once."""
        return InstantMember(spec)

    def members_must_see(self, mark: Any) -> None:
        """They are in this process."""

    def shutdown(self) -> None:
        """Nothing runs."""


# --- simulated time ---------------------------------------------------------------------------------------------------


@dataclass(order=True)
class _Event:
    at: float
    number: int  # ties end in the order in which they began
    happen: Callable[[], None]


class SimulatedTime:
    """A clock that jumps from event to event, and the bell of a dataflow that lives on it. One thread."""

    def __init__(self) -> None:
        self.now = 0.0
        self._events: list[_Event] = []
        self._numbers = itertools.count()
        self._is_rung = False

    def clock(self) -> float:
        """Simulated seconds."""
        return self.now

    def at(self, when: float, happen: Callable[[], None]) -> None:
        """Have something happen."""
        heapq.heappush(self._events, _Event(when, next(self._numbers), happen))

    def let_pass(self, seconds: float) -> None:
        """Let time pass, with all that happens in it."""
        until = self.now + seconds
        while self._events and self._events[0].at <= until:
            event = heapq.heappop(self._events)
            self.now = event.at
            event.happen()
        self.now = until

    def set(self) -> None:
        """Ring."""
        self._is_rung = True

    def clear(self) -> None:
        """Forget the ring."""
        self._is_rung = False

    def wait(self, timeout: float) -> None:
        """Let events happen until one rings; nothing else ever happens, so timeouts pass unnoticed."""
        while not self._is_rung:
            if not self._events:
                raise RuntimeError("everybody waits and nothing is under way")
            event = heapq.heappop(self._events)
            self.now = event.at
            event.happen()


class MemberOnClock:
    """A member on a simulated clock: ready at once, and asked for nothing but leases."""

    def __init__(self, name: str) -> None:
        self.name = name

    def call(self, method: str, /, *args: Any, control: bool = False, label: str = "") -> Future[Any]:
        """Settled when the clock gets there."""
        answer: Future[Any] = Future()
        if method == "ping":
            answer.set_result("ready")
        else:
            (job,) = args
            self.work(job, answer.set_result)
        return answer

    def work(self, job: StageJob, done: Callable[[Receipt], object]) -> None:
        """Have a job done: ``done`` is called when the clock gets to its end."""
        raise NotImplementedError

    def kill(self) -> None:
        """Nothing runs."""


class SimulatedMember(MemberOnClock):
    """An engine of fixed speed: it works on its leases one after the other, for as long as the model says."""

    def __init__(self, time_: SimulatedTime, spec: MemberSpec, seed: int) -> None:
        super().__init__(spec.name)
        self._time, self._seed = time_, seed
        self._free_at = 0.0
        self.worked_s = 0.0

    def work(self, job: StageJob, done: Callable[[Receipt], object]) -> None:
        """See :class:`MemberOnClock`."""
        seconds = latency(job.stage, self._seed, job.shard)
        self._free_at = max(self._free_at, self._time.now) + seconds
        self.worked_s += seconds
        self._time.at(self._free_at, lambda: done(receipt_of(job, seconds)))


class SimulatedRuntime:
    """Members that live on a simulated clock."""

    def __init__(self, time_: SimulatedTime, seed: int) -> None:
        self._time, self._seed = time_, seed
        self.members: list[SimulatedMember] = []

    def start(self, spec: MemberSpec) -> SimulatedMember:
        """Ready at once."""
        self.members.append(SimulatedMember(self._time, spec, self._seed))
        return self.members[-1]

    def worked_s(self, pool: str) -> Iterator[float]:
        """Seconds of work of each of a pool's members."""
        return (member.worked_s for member in self.members if member.name.startswith(f"{pool}/"))

    def shutdown(self) -> None:
        """Nothing runs."""


def bound_s(num_shards: int, members: Mapping[str, int], stages: Mapping[str, tuple[str, ...]]) -> float:
    """No schedule is faster on average: the longest pool's work over its members."""
    return max(
        num_shards * sum(mean_latency(stage) for stage in of_pool) / members[pool] for pool, of_pool in stages.items()
    )
