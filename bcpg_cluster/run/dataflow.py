"""Runs the map stages of a round: every shard of every stage as soon as its inputs are accepted.

Generation, verification, segmentation, judging and weighing overlap by nothing more than this rule. What is already in the
manifest is not done again, so resuming needs no mode of its own.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from functools import partial
from typing import Any, Protocol

from bcpg_cluster.cluster.leases import Work
from bcpg_cluster.cluster.pool import Pool
from bcpg_cluster.cluster.runtime import Member
from bcpg_cluster.errors import Interrupted
from bcpg_cluster.records import Receipt
from bcpg_cluster.stages.frontier import Frontier
from bcpg_cluster.stages.graph import StageSpec
from bcpg_cluster.stages.job import StageJob, run_job
from bcpg_cluster.store.layout import new_attempt
from bcpg_cluster.store.manifest import Manifest
from bcpg_cluster.watch.observer import Observer, ShardAccepted, StageProgress


class Bell(Protocol):
    """Rung by pools when there may be something to absorb: a ``threading.Event``, or a simulation's."""

    def set(self) -> None:
        """Ring; may come from any thread."""
        ...

    def clear(self) -> None:
        """Forget that it was rung."""
        ...

    def wait(self, timeout: float) -> object:
        """Return when it was rung since the last ``clear``, or after ``timeout`` seconds."""
        ...


class Dataflow:
    """One round's map stages over ``num_shards`` shards.

    Args:
        parameters: for the jobs of all stages (e.g. the policy version).
        stop_asked: polled; when true, leases under way are finished (at most ``grace_s``) and ``Interrupted`` is raised.
        tend: called in every turn, to look after the pools.
        check_whole: called with a stage when all shards of its table are accepted, and again before the table is sealed; what it
            raises ends the run.
        poll_s: the longest time between two checks of ``stop_asked`` and of leases that may be overdue.
        clock, bell: how time passes; a simulation brings its own.
    """

    def __init__(
        self,
        manifest: Manifest,
        pools: Mapping[str, Pool],
        stages: Sequence[StageSpec],
        round_: int,
        num_shards: int,
        parameters: Mapping[str, Any],
        *,
        observer: Observer,
        stop_asked: Callable[[], bool] = lambda: False,
        tend: Callable[[], None] = lambda: None,
        check_whole: Callable[[StageSpec], None] = lambda stage: None,
        grace_s: float = 30.0,
        poll_s: float = 0.5,
        clock: Callable[[], float] = time.monotonic,
        bell: Bell | None = None,
    ) -> None:
        self._manifest, self._pools, self._stages = manifest, pools, tuple(stages)
        self._round, self._num_shards, self._parameters = round_, num_shards, dict(parameters)
        self._observer, self._stop_asked, self._tend = observer, stop_asked, tend
        self._check_whole = check_whole
        self._grace_s, self._poll_s = grace_s, poll_s
        self._clock, self._bell = clock, bell or threading.Event()
        tables = {*(stage.output for stage in stages), *(table for stage in stages for table in stage.inputs)}
        accepted = {table: dict(self._accepted(table)) for table in tables}
        self._frontier = Frontier(self._stages, num_shards, accepted)
        self._first: dict[str, float] = {}
        self._last: dict[str, float] = {}

    def run(self) -> dict[str, float]:
        """Finish and seal all output tables; wall seconds of each stage that did something, first lease to last receipt.

        Raises:
            Interrupted: stop was asked for; what was delivered is in the manifest.
        """
        used = [self._pools[name] for name in dict.fromkeys(stage.pool for stage in self._stages)]
        for pool in used:
            pool.on_news = self._bell.set
        if not self._frontier.is_complete:
            for stage in self._stages:  # what a resumed run has already is not part of its pace
                self._tell_progress(stage.name, stage.output)
        self._submit(self._frontier.ready())
        while not self._frontier.is_complete:
            self._bell.clear()  # before the polls: what they miss rings again
            if self._stop_asked():
                self._wind_down(used)
            self._tend()
            if not self._absorb(used):
                self._bell.wait(self._poll_s)
        for stage in self._stages:
            if (self._round, stage.output) not in self._manifest.state.sealed:
                self._check_whole(stage)
                self._manifest.seal(self._round, stage.output, self._num_shards)
        return {name: self._last[name] - self._first[name] for name in self._last}

    def _accepted(self, table: str) -> Mapping[int, Receipt]:
        return self._manifest.state.shards.get((self._round, table), {})

    def _submit(self, ready: Sequence[tuple[StageSpec, int]]) -> None:
        for stage, shard in ready:
            label = f"{stage.name} round {self._round} shard {shard}"
            start = partial(self._start, stage, shard, label)
            self._pools[stage.pool].submit(
                Work((self._round, stage.name, stage.output, shard), start, label, stage.name)
            )

    def _start(self, stage: StageSpec, shard: int, label: str, member: Member) -> Future[Receipt]:
        """One try at a shard, under an attempt id of its own. A stage's time begins with its first: a member is ready."""
        self._first.setdefault(stage.name, self._clock())
        inputs = {table: self._accepted(table)[shard] for table in stage.inputs}
        run_dir = self._manifest.run_dir.absolute()
        job = StageJob(run_dir, stage.name, stage.output, self._round, shard, new_attempt(), inputs, self._parameters)
        return run_job(member, job, label)

    def _absorb(self, used: Sequence[Pool], *, assign: bool = True) -> int:
        """Take in what all pools have finished, with one write to the manifest; how many pieces that were."""
        finished = [done for pool in used for done in pool.poll(assign=assign)]
        counted = self._manifest.accept_all([done.result for done in finished])
        by_name = {stage.name: stage for stage in self._stages}
        for done, counts in zip(finished, counted, strict=True):
            _, name, output, shard = done.key
            self._last[name] = self._clock()
            self._observer.hear(ShardAccepted(self._round, name, done.result))
            self._tell_progress(name, output)
            if len(self._accepted(output)) == self._num_shards:
                self._check_whole(by_name[name])
            if counts and assign:
                self._submit(self._frontier.accept(output, shard))
        return len(finished)

    def _tell_progress(self, name: str, output: str) -> None:
        self._observer.hear(StageProgress(self._round, name, len(self._accepted(output)), self._num_shards))

    def _wind_down(self, used: Sequence[Pool]) -> None:
        for pool in used:
            pool.drop_queue()
        deadline = self._clock() + self._grace_s
        while any(pool.num_leased for pool in used) and self._clock() < deadline:
            self._bell.clear()
            if not self._absorb(used, assign=False):
                self._bell.wait(0.2)
        raise Interrupted("stopped between shards; what was finished is kept")
