"""Runs the map stages of a round: every shard of every stage as soon as its inputs are accepted.

Generation, verification, segmentation, judging and weighing overlap by nothing more than this rule. What is already in the
manifest is not done again, so resuming needs no mode of its own.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, wait
from typing import Any

from bcpg_cluster.cluster.pool import Pool, Work
from bcpg_cluster.errors import Interrupted
from bcpg_cluster.observer import Observer
from bcpg_cluster.records import Receipt
from bcpg_cluster.stages.graph import StageSpec
from bcpg_cluster.stages.job import StageJob
from bcpg_cluster.store.layout import new_attempt
from bcpg_cluster.store.manifest import Manifest


class Dataflow:
    """One round's map stages over ``num_shards`` shards.

    Args:
        parameters: for the jobs of all stages (e.g. the policy version).
        stop_asked: polled; when true, leases under way are finished (at most ``grace_s``) and ``Interrupted`` is raised.
        tend: called in every turn, to look after the pools.
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
        grace_s: float = 30.0,
        poll_s: float = 0.5,
    ) -> None:
        self._manifest, self._pools, self._stages = manifest, pools, tuple(stages)
        self._round, self._num_shards, self._parameters = round_, num_shards, dict(parameters)
        self._observer, self._stop_asked, self._tend = observer, stop_asked, tend
        self._grace_s, self._poll_s = grace_s, poll_s
        self._submitted: set[tuple[str, int]] = set()
        self._first: dict[str, float] = {}
        self._last: dict[str, float] = {}

    def run(self) -> dict[str, float]:
        """Finish and seal all output tables; wall seconds of each stage that did something, first lease to last receipt.

        Raises:
            Interrupted: stop was asked for; what was delivered is in the manifest.
        """
        used = [self._pools[name] for name in dict.fromkeys(stage.pool for stage in self._stages)]
        while not self._is_complete():
            if self._stop_asked():
                self._wind_down(used)
            self._tend()
            self._submit_ready()
            for pool in used:
                self._absorb(pool)
            pending = [future for pool in used for future in pool.futures()]
            if pending:
                wait(pending, timeout=self._poll_s, return_when=FIRST_COMPLETED)
        for stage in self._stages:
            if (self._round, stage.output) not in self._manifest.state.sealed:
                self._manifest.seal(self._round, stage.output, self._num_shards)
        return {name: self._last[name] - self._first[name] for name in self._last}

    def _accepted(self, table: str) -> dict[int, Receipt]:
        return self._manifest.state.shards.get((self._round, table), {})

    def _is_complete(self) -> bool:
        return all(len(self._accepted(stage.output)) >= self._num_shards for stage in self._stages)

    def _submit_ready(self) -> None:
        for stage in self._stages:
            have = self._accepted(stage.output)
            inputs = [self._accepted(table) for table in stage.inputs]
            for shard in range(self._num_shards):
                key = (stage.output, shard)
                if shard in have or key in self._submitted or not all(shard in table for table in inputs):
                    continue
                self._submitted.add(key)
                self._first.setdefault(stage.name, time.monotonic())
                self._pools[stage.pool].submit(
                    Work(
                        (self._round, stage.name, stage.output, shard),
                        "run",
                        self._job_maker(stage, shard),
                        label=f"{stage.name} round {self._round} shard {shard}",
                    )
                )

    def _job_maker(self, stage: StageSpec, shard: int) -> Callable[[int], tuple[StageJob]]:
        def make(attempt: int) -> tuple[StageJob]:
            inputs = {table: self._accepted(table)[shard] for table in stage.inputs}
            run_dir = str(self._manifest.run_dir.absolute())
            job = StageJob(
                run_dir, stage.name, stage.output, self._round, shard, new_attempt(), inputs, self._parameters
            )
            return (job,)

        return make

    def _absorb(self, pool: Pool, *, assign: bool = True) -> None:
        for done in pool.poll(assign=assign):
            _, name, output, _ = done.key
            self._manifest.accept(done.result)
            self._last[name] = time.monotonic()
            self._observer.receipt(self._round, name, done.result)
            self._observer.stage(self._round, name, len(self._accepted(output)), self._num_shards)

    def _wind_down(self, used: Sequence[Pool]) -> None:
        for pool in used:
            pool.drop_queue()
        deadline = time.monotonic() + self._grace_s
        while any(pool.num_leased for pool in used) and time.monotonic() < deadline:
            for pool in used:
                self._absorb(pool, assign=False)
            wait([future for pool in used for future in pool.futures()], timeout=0.2, return_when=FIRST_COMPLETED)
        raise Interrupted("stopped between shards; what was finished is kept")
