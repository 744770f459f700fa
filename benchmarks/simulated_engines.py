"""Engines of continuous batching on a simulated clock, for ``longest_first.py``: members whose shards share one batch.

A request takes a step of the engine for every token. A step takes longer the more requests are in the batch; where the batch is
full, the others wait in the order in which they came.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from simulated_members import MemberOnClock, SimulatedTime, latency, receipt_of

from bcpg_cluster.cluster.runtime import MemberSpec
from bcpg_cluster.records import Receipt
from bcpg_cluster.stages.job import StageJob

FIRST_S, DOUBLE_AT = 0.020, 256  # a step of one request; with so many it takes twice as long


@dataclass(slots=True)
class _Job:
    num_left: int
    began: float
    finish: Callable[[float], object]


class SimulatedEngine:
    """One member's batch.

    Args:
        slots: requests in the batch at once.
        slowness: what a step takes beside that of other engines.
    """

    def __init__(self, time_: SimulatedTime, slots: int, slowness: float = 1.0) -> None:
        self._time, self._slots, self._slowness = time_, slots, slowness
        self._waiting: deque[tuple[int, _Job]] = deque()
        self._running: list[tuple[float, int, _Job]] = []  # by the step at which they end
        self._steps, self._since = 0.0, 0.0  # done so far, and up to when
        self._number = self._turn = 0
        self.busy_s = 0.0

    def submit(self, lengths: Sequence[int], finish: Callable[[float], object]) -> None:
        """Work on requests of these lengths; ``finish`` is told of the seconds since now when all are done."""
        job = _Job(len(lengths), self._time.now, finish)
        self._catch_up()
        self._waiting.extend((length, job) for length in lengths)
        self._plan()

    def _step_s(self) -> float:
        return self._slowness * FIRST_S * (1 + len(self._running) / DOUBLE_AT)

    def _catch_up(self) -> None:
        if self._running:
            self._steps += (self._time.now - self._since) / self._step_s()
            self.busy_s += self._time.now - self._since
        self._since = self._time.now

    def _plan(self) -> None:
        """Fill the batch, and come back when the next request ends."""
        while self._waiting and len(self._running) < self._slots:
            length, job = self._waiting.popleft()
            self._number += 1
            heapq.heappush(self._running, (self._steps + length, self._number, job))
        self._turn += 1
        if self._running:
            turn, after = self._turn, max(self._running[0][0] - self._steps, 0.0) * self._step_s()
            self._time.at(self._time.now + after, lambda: self._end(turn))

    def _end(self, turn: int) -> None:
        if turn != self._turn:
            return  # the batch has changed since
        self._catch_up()
        while self._running and self._running[0][0] <= self._steps + 1e-6:
            job = heapq.heappop(self._running)[2]
            job.num_left -= 1
            if not job.num_left:
                job.finish(self._time.now - job.began)
        self._plan()


class EngineMember(MemberOnClock):
    """A member whose engine does ``generate`` and the judges' work; other stages take their fitted times, one at a time.

    Args:
        lengths: the tokens of each request that a job makes.
        tokens: what the receipt of a job counts.
    """

    def __init__(
        self,
        time_: SimulatedTime,
        spec: MemberSpec,
        slots: int,
        lengths: Callable[[StageJob], Sequence[int]],
        tokens: Callable[[StageJob], int],
        seed: int,
        slowness: float = 1.0,
    ) -> None:
        super().__init__(spec.name)
        self.engine = SimulatedEngine(time_, slots, slowness)
        self._time, self._lengths, self._tokens, self._seed = time_, lengths, tokens, seed
        self._free_at = 0.0

    def work(self, job: StageJob, done: Callable[[Receipt], object]) -> None:
        """See :class:`MemberOnClock`."""

        def finish(seconds: float) -> None:
            receipt = receipt_of(job, seconds)
            receipt.metrics["tokens"] = float(self._tokens(job))
            done(receipt)

        if job.stage == "generate" or job.stage.startswith("judge."):
            self.engine.submit(self._lengths(job), finish)
        else:
            seconds = latency(job.stage, self._seed, job.shard)
            self._free_at = max(self._free_at, self._time.now) + seconds
            self._time.at(self._free_at, lambda: finish(seconds))


class EngineRuntime:
    """Starts members that live on a simulated clock."""

    def __init__(self, make: Callable[[MemberSpec], EngineMember]) -> None:
        self._make = make
        self.members: list[EngineMember] = []

    def start(self, spec: MemberSpec) -> EngineMember:
        """Ready at once."""
        self.members.append(self._make(spec))
        return self.members[-1]

    def shutdown(self) -> None:
        """Nothing runs."""
