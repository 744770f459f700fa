"""train: what a member of the trainer group hosts. It reads and writes the store; the maths is the engine's."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from bcpg_cluster.cluster.liveness.rank_progress import ProgressReporter, RankProgress
from bcpg_cluster.cluster.node_address import own_address
from bcpg_cluster.errors import RunDirectoryError, StoreError
from bcpg_cluster.records import Receipt, StepCheckpoint
from bcpg_cluster.stages.graph import REFERENCE
from bcpg_cluster.stages.push.adapters.versions import Carried
from bcpg_cluster.stages.push.arrivals import VerifySnapshot
from bcpg_cluster.stages.push.file_digests import FileFault, companion_digests
from bcpg_cluster.stages.push.protocol import PushGroup, SnapshotDigests, TensorSpec
from bcpg_cluster.stages.train.protocol import (
    ReferenceLogprobs,
    StepReport,
    TrainerRank,
    TrainRow,
    TrainSettings,
)
from bcpg_cluster.stages.train.step_checkpoints.record import check_step_checkpoint, checkpoint_name
from bcpg_cluster.stages.train.table.opening import RANKS, TableOpener
from bcpg_cluster.stages.train.table.row_table import RowTable
from bcpg_cluster.store.fetched import local_copy, local_staging, put_directory, run_cache, take_newest
from bcpg_cluster.store.layout import decoded_path
from bcpg_cluster.store.path import RunPath, StoredPath
from bcpg_cluster.store.rows import ReferenceRow, Row, WeightedRow, reference_row, weighted_from
from bcpg_cluster.store.shards import read_shard, write_shard
from bcpg_cluster.store.whole_files import remove_tree

Sequences = Sequence[tuple[tuple[int, ...], tuple[int, ...]]]
RowsOfShard = Callable[[Mapping[str, list[Row]], Any], Sequence[WeightedRow]]
"""The rows that will be trained on, from a shard's rollouts and outcomes and a run's settings of ``weigh``."""


@dataclass(frozen=True, slots=True)
class TrainJob:
    """One round's training.

    Attributes:
        run_dir: the absolute run directory that is read from and written to; one group may serve several runs in turn.
        model_path: the start weights.
        weighted: the sealed table's shards; none while they are being made.
        checkpoint_dir: of the step checkpoints, relative to ``run_dir``; where that is in an object store, to this machine's cache.
        digests: of the start weights, by parameter; none for the base model.
        resume: the step checkpoint to resume from, which every rank has checked; ``None`` begins at step 0.
    """

    run_dir: RunPath
    round: int
    model_path: str | RunPath
    weighted: tuple[Receipt, ...]
    settings: TrainSettings
    checkpoint_dir: str
    digests: Mapping[str, str] = field(default_factory=dict)
    resume: StepCheckpoint | None = None


@dataclass(frozen=True, slots=True)
class ReferencePiece:
    """One shard of a round, for the reference pass.

    Attributes:
        inputs: what its rows are read from: its ``weighted``, or, before that is there, its ``rollouts`` and ``outcomes``.
        weigh: the run's settings of ``weigh``, which say what is trained on; ``None`` with ``weighted``.
    """

    shard: int
    inputs: Mapping[str, Receipt]
    weigh: Any = None


def reference_shard(shard: int, rank: int, world_size: int) -> int:
    """The number in table ``reference`` of a rank's share of a shard of the round."""
    return shard * world_size + rank


@dataclass(frozen=True, slots=True)
class WrittenSnapshot:
    """What rank 0 wrote.

    Attributes:
        digests: of every parameter.
        files: sha256 of the files that are no weights, by name.
        adapters: sha256 of every matrix of the adapters that are merged in, by name; none where whole weights were trained.
    """

    digests: SnapshotDigests
    files: dict[str, str]
    adapters: dict[str, str]


class TrainWorker:
    """One rank. ``make_engine(rank, world_size, host, port)`` builds its :class:`TrainerRank` when the group meets; ``verify``
    checks what it fetched to start from; ``rows_of_shard`` says what will be trained on before it is weighed.
    """

    def __init__(
        self,
        rank: int,
        world_size: int,
        make_engine: Callable[[int, int, str, int], TrainerRank],
        verify: VerifySnapshot,
        rows_of_shard: RowsOfShard | None = None,
    ) -> None:
        self._rank, self._world_size = rank, world_size
        self._make_engine, self._verify, self._rows_of_shard = make_engine, verify, rows_of_shard
        self._untouched: TrainJob | None = None  # whose start weights are loaded, and were not trained since
        self._engine: TrainerRank | None = None
        self._rows = RowTable(())
        self._progress = ProgressReporter()

    @property
    def _trainer(self) -> TrainerRank:
        if self._engine is None:
            raise StoreError("the trainer group has not met yet")
        return self._engine

    def ping(self) -> str:
        """Answered as soon as the member is ready."""
        return "ready"

    def progress(self) -> RankProgress:
        """Where this rank is in its work. A control call: answered while it works."""
        return self._progress.now()

    def rendezvous(self) -> tuple[str, int]:
        """This machine's address and a free port, for the group to meet at."""
        return own_address(), _free_port()

    def meet(self, host: str, port: int) -> None:
        """Build the engine; returns when all ranks have met."""
        self._engine = self._make_engine(self._rank, self._world_size, host, port)
        self._engine.progress = self._progress

    def begin(self, job: TrainJob) -> int:
        """Open the round's rows, and have its start weights; the number of rows.

        Raises:
            DataError, DamagedShardError, RunDirectoryError: see :meth:`TableOpener.rows`.
        """
        with self._progress.call("reading rows"):
            self._rows = RowTable(())  # the last round's
            self._rows = self._opener(job).rows(job.weighted)
        self.open(job)
        return len(self._rows)

    def _opener(self, job: TrainJob) -> TableOpener:
        scratch = _own_directory(job.run_dir) / decoded_path(job.round)
        return TableOpener(job.run_dir, scratch, self._rank, self._world_size, self._progress)

    def open(self, job: TrainJob) -> None:
        """Load the round's start weights and make a fresh optimiser, unless they are there as they were loaded."""
        wanted = replace(job, weighted=(), checkpoint_dir="", resume=None)
        if self._untouched == wanted:
            return
        with self._progress.call("fetching the start weights"):
            self._untouched = None
            self._trainer.reports = []  # the last round's steps must not be taken for this one's
            weights = self._start_weights(job)
            self._progress.begin("loading the start weights")
            self._trainer.open(weights, job.settings)
            self._untouched = wanted

    def _start_weights(self, job: TrainJob) -> str:
        copy = local_copy(job.model_path)
        if job.digests and isinstance(
            job.model_path, StoredPath
        ):  # the coordinator sees a directory, but not this copy
            try:
                self._verify(copy, job.digests)
            except StoreError as error:
                raise RunDirectoryError(
                    f"the copy of {job.model_path} on {socket.gethostname()} was altered: {error}",
                    rule="weights are trained on only if their digests are those noted when they were written",
                    remedy=f"delete {copy} there and run the same command again, which fetches it anew",
                ) from error
        return copy

    def reference(self, job: TrainJob, piece: ReferencePiece, attempt: str) -> Receipt:
        """lp_ref of this rank's share of a shard's rows, as a shard of the ``reference`` table (:func:`reference_shard`).

        The rows are dealt to ranks and cut into forwards shard by shard, so the numbers do not depend on when a shard comes.
        """
        with self._progress.call("reference pass"):
            return self._reference(job, piece, attempt)

    def _reference(self, job: TrainJob, piece: ReferencePiece, attempt: str) -> Receipt:
        started = time.monotonic()
        rows = self._rows_of(job, piece)
        logprobs = self._trainer.reference_logprobs([train_row(row) for row in rows]) if rows else {}
        self._progress.begin("writing reference log-probs")
        found = [
            ReferenceRow(rows[index].key, values.response, values.rival) for index, values in sorted(logprobs.items())
        ]
        num_tokens = sum(len(row.logprobs) + len(row.rival_logprobs) for row in found)
        return write_shard(
            job.run_dir,
            table=REFERENCE,
            round_=job.round,
            shard=reference_shard(piece.shard, self._rank, self._world_size),
            attempt=attempt,
            rows=[reference_row(row) for row in found],
            seconds=time.monotonic() - started,
            metrics={"tokens": float(num_tokens), RANKS: float(self._world_size)},
        )

    def _rows_of(self, job: TrainJob, piece: ReferencePiece) -> Sequence[WeightedRow]:
        tables = {table: read_shard(job.run_dir, receipt) for table, receipt in piece.inputs.items()}
        if "weighted" in tables:
            return weighted_from(tables["weighted"])
        if self._rows_of_shard is None:
            raise StoreError("this trainer reads nothing but the weighted table")
        return self._rows_of_shard(tables, piece.weigh)

    def train(self, job: TrainJob, reference: Sequence[Receipt]) -> list[StepReport]:
        """The round's optimiser steps, from ``job.resume`` on.

        Raises:
            StoreError: a training row has no row in the ``reference`` table.
            DataError, DamagedShardError, RunDirectoryError: see :meth:`TableOpener.with_reference`.
        """
        with self._progress.call("reading reference log-probs"):
            self._untouched = None
            return self._train(job, reference)

    def _train(self, job: TrainJob, reference: Sequence[Receipt]) -> list[StepReport]:
        rows = self._opener(job).with_reference(self._rows, reference)
        checkpoints = str(_checkpoints(job)) if job.settings.checkpoint_every_steps else None
        return self._trainer.train(rows, checkpoints, job.resume)

    def check_checkpoint(self, job: TrainJob, checkpoint: StepCheckpoint) -> tuple[FileFault, ...]:
        """What is wrong with a step checkpoint's files that this rank would read; nothing is loaded."""
        place = _checkpoints(job) / checkpoint_name(checkpoint.num_steps)
        with self._progress.call("checking a step checkpoint"):
            return check_step_checkpoint(place, checkpoint, self._rank)

    def newest_checkpoint(self) -> StepCheckpoint | None:
        """See :class:`TrainerRank`. A control call: answered while :meth:`train` works."""
        return None if self._engine is None else self._engine.newest_checkpoint()

    def drop_passing_files(self, job: TrainJob) -> None:
        """The round is trained: its step checkpoints and decoded rows are worth nothing now."""
        remove_tree(_checkpoints(job).parent)
        remove_tree(_own_directory(job.run_dir) / decoded_path(job.round))

    def steps(self, since: int) -> list[StepReport]:
        """What :meth:`train` has done so far, from step ``since`` on. A control call: answered while it works."""
        return [] if self._engine is None else list(self._engine.reports[since:])

    def canary_sequences(self, number: int) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
        """Some rows spread over the table, right and wrong ones, to prove pushes with."""
        spread = max(len(self._rows) // max(number, 1), 1)
        chosen = (self._rows[row] for row in range(0, len(self._rows), spread)[:number])
        return [(row.prompt_token_ids, row.token_ids) for row in chosen]

    def score(self, sequences: Sequences) -> list[tuple[float, ...]]:
        """The trainer's log-probs of given responses under the present weights."""
        with self._progress.call("scoring canaries"):
            return self._trainer.score_tokens(sequences)

    def save_snapshot(self, path: RunPath) -> WrittenSnapshot | None:
        """Write the present weights to the directory ``path`` (absolute); what was written, from rank 0."""
        with self._progress.call("snapshot"):
            return self._save_snapshot(path)

    def _save_snapshot(self, path: RunPath) -> WrittenSnapshot | None:
        if not isinstance(path, StoredPath):
            return self._write_snapshot(path)
        with local_staging() as staging:
            written = self._write_snapshot(staging / path.name)
            if written is not None:
                self._progress.begin("putting the snapshot into the object store")
                put_directory(staging / path.name, path)
        return written

    def _write_snapshot(self, path: Path) -> WrittenSnapshot | None:
        digests = self._trainer.save_snapshot(str(path))
        adapters = self._trainer.adapter_digests()
        return None if digests is None else WrittenSnapshot(digests, companion_digests(str(path)), adapters or {})

    def push_address(self) -> tuple[str, int]:
        """Where a new push group can meet."""
        return own_address(), _free_port()

    def join_push_group(self, group: PushGroup) -> None:
        """See :class:`TrainerRank`."""
        self._trainer.join_push_group(group)

    def push_specs(self, carried: Carried = "weights") -> list[TensorSpec]:
        """See :class:`TrainerRank`."""
        return self._trainer.push_specs(carried)

    def push_weights(self, carried: Carried = "weights") -> list[TensorSpec]:
        """See :class:`TrainerRank`."""
        with self._progress.call("push"):
            return self._trainer.push_weights(carried)

    def leave_push_group(self) -> None:
        """See :class:`TrainerRank`."""
        self._trainer.leave_push_group()

    def close(self) -> None:
        """Free the engine."""
        if self._engine is not None:
            self._engine.close()


def _checkpoints(job: TrainJob) -> Path:
    """Engines write step checkpoints to a directory. In the cache every machine has its own, so only the same machines resume
    from them; on others the round's training starts at step 0.
    """
    taken = _own_directory(job.run_dir) / job.checkpoint_dir
    if not isinstance(job.run_dir, StoredPath):
        return taken
    # What the try before left on this machine; ``run.training.take_checkpoints`` does it in a directory.
    take_newest(taken)
    return taken


def _own_directory(run_dir: RunPath) -> Path:
    """Where files of a run lie that single bytes are read from: its directory, or this machine's cache for it."""
    return run_cache(run_dir) if isinstance(run_dir, StoredPath) else run_dir


def train_row(row: WeightedRow, reference: ReferenceLogprobs | None = None) -> TrainRow:
    """A stored row as engines take it."""
    return TrainRow(
        row.prompt_token_ids,
        row.token_ids,
        row.token_weights,
        row.advantage,
        row.reward,
        row.group_mean,
        row.group_size,
        row.mined,
        () if row.rival is None else row.rival.token_ids,
        reference,
    )


def _free_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.bind(("", 0))
        return int(probe.getsockname()[1])
