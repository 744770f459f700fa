"""What every stage gets and gives: a job names its input shards; the worker reads, calls the stage, writes, receipts."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from bcpg_cluster.cluster.runtime import Member
from bcpg_cluster.records import Receipt
from bcpg_cluster.stages.exhausted import naming_exhaustion
from bcpg_cluster.stages.parts import Part, rows_of_part
from bcpg_cluster.store.fetched import local_copy
from bcpg_cluster.store.path import RunPath, StoredPath
from bcpg_cluster.store.rows import Row
from bcpg_cluster.store.shards import load_arrow, read_shard, write_shard


@dataclass(frozen=True, slots=True)
class StageJob:
    """One shard of one stage.

    Attributes:
        run_dir: the absolute run directory that is read from and written to; a worker may serve several runs in turn.
        stage: the stage's name, e.g. ``judge.llm``.
        output: the table it writes.
        inputs: accepted shards by table.
        parameters: what changes from run to run or round to round (plain data).
        units: the input table that ``part`` counts in.
        part: only these units; ``None`` is the whole shard.
        given_up: why nothing is asked about the part's units, which then get the status of an infrastructure failure; empty
            for ordinary work.
        parts: receipts of all parts of the shard, in order, to be put together; nothing else is done then.
    """

    run_dir: RunPath
    stage: str
    output: str
    round: int
    shard: int
    attempt: str
    inputs: Mapping[str, Receipt]
    parameters: Mapping[str, Any] = field(default_factory=dict)
    units: str | None = None
    part: Part | None = None
    given_up: str = ""
    parts: tuple[Receipt, ...] = ()


@dataclass(frozen=True, slots=True)
class StageResult:
    """Rows of the output table, and sums and counts about them (additive over shards)."""

    rows: list[Row]
    metrics: dict[str, float]


Tables = Mapping[str, list[Row]]
Stage = Callable[[Tables, StageJob], StageResult]


class StageWorker:
    """What a pool member hosts: some stages over an engine.

    Args:
        stages: by stage name.
        engine: anything whose methods control calls may name (pushes); closed with the worker.
        others: what else is closed with it.
    """

    def __init__(self, stages: Mapping[str, Stage], engine: Any = None, others: Sequence[Any] = ()) -> None:
        self._stages = dict(stages)
        self._engine = engine
        self._others = tuple(others)
        load_arrow()  # before it is ready: nothing waits for it here, and the first lease would

    def replace_stage(self, name: str, made: Callable[[Stage], Stage]) -> None:
        """Put what ``made`` makes of a stage in its place."""
        self._stages[name] = made(self._stages[name])

    def ping(self) -> str:
        """Answered as soon as the member is ready to work."""
        return "ready"

    def run(self, job: StageJob) -> Receipt:
        """Do one job and write its shard; the manifest must still accept the receipt."""
        started = time.monotonic()
        with naming_exhaustion():
            result = _put_together(job) if job.parts else self._work_on(job)
        return write_shard(
            job.run_dir,
            table=job.output,
            round_=job.round,
            shard=job.shard,
            attempt=job.attempt,
            rows=result.rows,
            seconds=time.monotonic() - started,
            metrics=result.metrics,
        )

    def _work_on(self, job: StageJob) -> StageResult:
        tables = {table: read_shard(job.run_dir, receipt) for table, receipt in job.inputs.items()}
        if job.part is not None and job.units is not None:
            tables = rows_of_part(tables, job.units, job.part)
        return self._stages[job.stage](tables, job)

    def engine_call(self, method: str, *args: Any) -> Any:
        """Pass a control call on to the engine, or read one of its properties.

        Engines read local files: what lies in an object store is fetched first.
        """
        args = tuple(local_copy(value) if isinstance(value, StoredPath) else value for value in args)
        attribute = getattr(self._engine, method)
        return attribute(*args) if callable(attribute) else attribute

    def sleep(self) -> bool:
        """Have the engine free its device while it has no work; false when it cannot (see :class:`Sleeper`)."""
        return isinstance(self._engine, Sleeper) and self._engine.sleep()

    def wake_up(self) -> None:
        """End the engine's sleep."""
        self._engine.wake_up()

    def close(self) -> None:
        """Free everything."""
        for part in (self._engine, *self._others):
            if part is not None:
                part.close()


def _put_together(job: StageJob) -> StageResult:
    """What the shard would have been in one piece: rows in the order of their units, metrics added up."""
    metrics: Counter[str] = Counter()
    for part in job.parts:
        metrics.update(part.metrics)
    return StageResult([row for part in job.parts for row in read_shard(job.run_dir, part)], dict(metrics))


def run_job(member: Member, job: StageJob, label: str) -> Future[Receipt]:
    """Have a member that hosts a :class:`StageWorker` do one job."""
    return member.call("run", job, label=label)


@runtime_checkable
class Sleeper(Protocol):
    """An engine that can give its device to others and come back with the same weights. Its caches are gone then."""

    def sleep(self) -> bool:
        """Free the device; there is no work under way. False when this engine cannot."""
        ...

    def wake_up(self) -> None:
        """Take the device again."""
        ...
