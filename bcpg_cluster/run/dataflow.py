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

from bcpg_cluster.cluster.leases import Done, Work
from bcpg_cluster.cluster.pool import Pool
from bcpg_cluster.cluster.runtime import Member
from bcpg_cluster.errors import DamagedShardError, EngineError, Interrupted, StoreError
from bcpg_cluster.records import Receipt
from bcpg_cluster.run.recovery.lost_shards import LostShards
from bcpg_cluster.stages.frontier import Frontier
from bcpg_cluster.stages.graph import ROLLOUT_POOL, StageSpec
from bcpg_cluster.stages.job import StageJob, run_job
from bcpg_cluster.stages.judge.counts import num_requests
from bcpg_cluster.stages.parts import unit_keys
from bcpg_cluster.stages.quarantine import Quarantine, Task
from bcpg_cluster.stages.shard_size import shard_size
from bcpg_cluster.store.layout import new_attempt
from bcpg_cluster.store.manifest import Manifest
from bcpg_cluster.store.shards import read_columns
from bcpg_cluster.watch.observer import Faulted, Observer, ShardAccepted, StageProgress


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
        max_quarantined_share: of a stage's units, that may be left out since they end their workers (``stages.quarantine``).
        expected_tokens: by shard, of the responses that its prompts will get: the longest go first. None changes nothing.
        lost: told of damaged shards, which are then made again.
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
        max_quarantined_share: float = 0.0,
        expected_tokens: Mapping[int, float] | None = None,
        lost: LostShards | None = None,
        grace_s: float = 30.0,
        poll_s: float = 0.5,
        clock: Callable[[], float] = time.monotonic,
        bell: Bell | None = None,
    ) -> None:
        self._manifest, self._pools, self._stages = manifest, pools, tuple(stages)
        self._round, self._num_shards, self._parameters = round_, num_shards, dict(parameters)
        self._observer, self._stop_asked, self._tend = observer, stop_asked, tend
        self._check_whole, self._expected_tokens = check_whole, expected_tokens or {}
        self._grace_s, self._poll_s = grace_s, poll_s
        self._clock, self._bell = clock, bell or threading.Event()
        self._lost = lost or LostShards(manifest, stages, observer)
        self._frontier = self._new_frontier()
        self._quarantine = Quarantine(
            round_,
            max_share=max_quarantined_share,
            max_attempts=lambda pool: pools[pool].max_attempts,
            inputs=self._accepted,
            name_of=self._unit_name,
            submit=self._submit_task,
            tell=lambda fault: observer.hear(Faulted(fault)),
        )
        self._is_stale = False  # shards were given up: the frontier knows them as accepted
        self._damage: DamagedShardError | None = None  # the last that was found since
        # By attempt: the tables it was given, and their checksums.
        self._read: dict[str, tuple[tuple[str, str], ...]] = {}
        self._first: dict[str, float] = {}
        self._last: dict[str, float] = {}

    def run(self) -> dict[str, float]:
        """Finish and seal all output tables; wall seconds of each stage that did something, first lease to last receipt.

        Returns early, with tables unsealed, where a table that these stages only read lacks shards: they were given up since
        something before them came out different when it was made again, and other stages have to make them first.

        Raises:
            Interrupted: stop was asked for; what was delivered is in the manifest.
            DamagedShardError: of a table that these stages only read; they have no work under way then.
        """
        used = [self._pools[name] for name in dict.fromkeys(stage.pool for stage in self._stages)]
        for pool in used:
            pool.on_news = self._bell.set
        if not self._frontier.is_complete:
            for stage in self._stages:  # what a resumed run has already is not part of its pace
                self._tell_progress(stage.name, stage.output)
        if self._lacks_input():
            return {}
        self._submit(self._frontier.ready())
        while not self._is_sealed():
            self._bell.clear()  # before the polls: what they miss rings again
            if self._stop_asked():
                self._wind_down(used)
            self._tend()
            if not self._absorb(used) and not self._is_stale:
                self._bell.wait(self._poll_s)
            if self._is_stale and not self._start_over(used):
                break
        return {name: self._last[name] - self._first[name] for name in self._last}

    def _is_sealed(self) -> bool:
        """Whether all is done; seals the tables once all their shards are accepted and hold what they should."""
        if not self._frontier.is_complete:
            return False
        for stage in self._stages:
            if (self._round, stage.output) not in self._manifest.state.sealed:
                self._check(stage)
                if self._is_stale:
                    return False
                self._manifest.seal(self._round, stage.output, self._num_shards)
        return True

    def _check(self, stage: StageSpec) -> None:
        try:
            self._check_whole(stage)
        except DamagedShardError as error:
            self._give_up(error)

    def _give_up(self, error: DamagedShardError) -> None:
        self._lost.lose(error)
        self._is_stale, self._damage = True, error

    def _new_frontier(self) -> Frontier:
        tables = {table for stage in self._stages for table in (stage.output, *stage.inputs)}
        return Frontier(self._stages, self._num_shards, {table: dict(self._accepted(table)) for table in tables})

    def _start_over(self, used: Sequence[Pool]) -> bool:
        """Shards were given up. Finish the leases under way, then work on what is missing now; whether these stages can."""
        for pool in used:
            pool.drop_queue()
        while any(pool.num_leased for pool in used):
            self._bell.clear()
            if self._stop_asked():
                self._wind_down(used)
            self._tend()
            if not self._absorb(used, assign=False):
                self._bell.wait(self._poll_s)
        for pool in used:  # parts that were finished meanwhile may have asked for more
            pool.drop_queue()
        self._quarantine.forget_searches()
        damage, self._damage, self._is_stale = self._damage, None, False
        if self._lacks_input():
            if damage:
                raise damage
            return False
        self._frontier = self._new_frontier()
        self._submit(self._frontier.ready())
        return True

    def _lacks_input(self) -> bool:
        """Whether a table that these stages only read lacks shards."""
        given = {table for stage in self._stages for table in stage.inputs} - {stage.output for stage in self._stages}
        return any(self._manifest.state.missing(self._round, table, self._num_shards) for table in given)

    def _accepted(self, table: str) -> Mapping[int, Receipt]:
        return self._manifest.state.shards.get((self._round, table), {})

    def _submit(self, ready: Sequence[tuple[StageSpec, int]]) -> None:
        for stage, shard in ready:
            self._submit_task(Task(stage, shard))

    def _submit_task(self, task: Task) -> None:
        label = task.label(self._round)
        start, take_back = partial(self._start, task, label), partial(self._take_back, task)
        kind = task.stage.name
        requests = num_requests if kind.startswith("judge.") or task.stage.pool == ROLLOUT_POOL else None
        size = shard_size(task.stage, self._inputs(task), self._expected_tokens.get(task.shard, 0.0))
        work = Work(
            (task,), start, label, kind, size, is_alone=task.is_suspect, take_back=take_back, num_requests=requests
        )
        self._pools[task.stage.pool].submit(work)

    def _take_back(self, task: Task, why: str) -> bool:
        """Have a task whose member was lost searched; while shards are given up its inputs may be gone, and all begins anew."""
        return not self._is_stale and self._quarantine.lost(task, why)

    def _inputs(self, task: Task) -> dict[str, Receipt]:
        return {table: self._accepted(table)[task.shard] for table in task.stage.inputs}

    def _start(self, task: Task, label: str, member: Member) -> Future[Receipt]:
        """One try at a shard, under an attempt id of its own. A stage's time begins with its first: a member is ready."""
        stage, shard = task.stage, task.shard
        self._first.setdefault(stage.name, self._clock())
        inputs = self._inputs(task)
        job = StageJob(
            self._manifest.run_dir.absolute(),
            stage.name,
            stage.output,
            self._round,
            shard,
            new_attempt(),
            inputs,
            self._parameters,
            units=stage.units,
            part=task.part,
            given_up=task.given_up,
            parts=task.parts,
        )
        self._read[job.attempt] = tuple((table, receipt.checksum) for table, receipt in inputs.items())
        return run_job(member, job, label)

    def _unit_name(self, task: Task) -> str:
        """What the one unit of a task is called."""
        table, part = task.stage.units or "", task.part
        columns = ["prompt_id"] if table.endswith("prompts") else ["prompt_id", "sample"]
        try:
            rows = read_columns(self._manifest.run_dir, self._accepted(table)[task.shard], columns).to_pylist()
        except (StoreError, EngineError):  # whoever reads the shard next deals with it; here it is but a name
            return f"unit {part.start if part else 0} of shard {task.shard}"
        prompt, sample = unit_keys(rows)[part.start if part else 0]
        return f"prompt {prompt}" if sample is None else f"sample {sample} of prompt {prompt}"

    def _absorb(self, used: Sequence[Pool], *, assign: bool = True) -> int:
        """Take in what all pools have finished, all receipts in one write to the manifest; how many answers that were."""
        answers = [done for pool in used for done in pool.poll(assign=assign)]
        finished = [done for done in answers if done.error is None]
        # What is made again comes first: it decides whether the others read what counts.
        is_remade = [
            (self._round, done.key[0].stage.output, done.key[0].shard) in self._manifest.state.losses.waiting
            for done in finished
        ]
        for of_kind in (True, False):
            self._count([d for d, remade in zip(finished, is_remade, strict=True) if remade is of_kind], assign=assign)
        for error in [done.error for done in answers if done.error is not None]:
            self._give_up(error)
        return len(answers)

    def _count(self, finished: Sequence[Done], *, assign: bool) -> None:
        current = [done for done in finished if self._is_current(done)]
        whole = [done for done in current if self._quarantine.done(done.key[0], done.result)]
        num_remade = len(self._manifest.state.losses.remade)
        counted = self._manifest.accept_all([done.result for done in whole])
        self._is_stale |= any(not remade.is_same for remade in self._manifest.state.losses.remade[num_remade:])
        self._lost.tell_remade()
        for done, counts in zip(whole, counted, strict=True):
            task: Task = done.key[0]
            name, output = task.stage.name, task.stage.output
            self._last[name] = self._clock()
            self._observer.hear(ShardAccepted(self._round, name, done.result))
            self._tell_progress(name, output)
            if len(self._accepted(output)) == self._num_shards:
                self._check(task.stage)
            if counts and assign and not self._is_stale:
                self._submit(self._frontier.accept(output, task.shard))

    def _is_current(self, done: Done) -> bool:
        """Whether what a lease read is what counts: an input may have been made again since, with other content."""
        given = self._read.pop(done.result.attempt, ())
        return all(
            (receipt := self._accepted(table).get(done.key[0].shard)) is not None and receipt.checksum == checksum
            for table, checksum in given
        )

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
