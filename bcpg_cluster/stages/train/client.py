"""What a run asks of the trainer group, typed. Every call goes to all ranks; most wait for all of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any

from bcpg_cluster.cluster.gang import Gang
from bcpg_cluster.records import Receipt, StepCheckpoint
from bcpg_cluster.stages.push.adapters.versions import Carried
from bcpg_cluster.stages.push.file_digests import FileFault
from bcpg_cluster.stages.push.protocol import PushGroup, TensorSpec
from bcpg_cluster.stages.train.protocol import StepReport
from bcpg_cluster.stages.train.worker import ReferencePiece, Sequences, TrainJob, WrittenSnapshot
from bcpg_cluster.store.path import RunPath


class TrainerClient:
    """The calls of :class:`~bcpg_cluster.stages.train.worker.TrainWorker` on a gang of them. All raise like ``Gang.call_all``."""

    def __init__(self, gang: Gang) -> None:
        self._gang = gang

    def begin(self, job: TrainJob) -> None:
        """Have every rank read the round's rows, and the start weights where they are not loaded yet."""
        self._gang.call_all("begin", job, label=f"begin round {job.round}")

    def open(self, job: TrainJob) -> None:
        """Have every rank load the start weights, before there are rows."""
        self._gang.call_all("open", job, label=f"open round {job.round}")

    def reference(self, job: TrainJob, piece: ReferencePiece, attempt: str) -> list[Receipt]:
        """Have lp_ref of a shard's rows computed; each rank's part of table ``reference``."""
        label = f"reference round {job.round} shard {piece.shard}"
        return self._gang.call_all("reference", job, piece, attempt, label=label)

    def canary_sequences(self, number: int) -> Sequences:
        """Responses to prove pushes with."""
        return self._gang.call_all("canary_sequences", number)[0]

    def score(self, sequences: Sequences) -> list[tuple[float, ...]]:
        """Log-probs in nats of given responses under the present weights."""
        return self._gang.call_all("score", sequences)[0]

    def train(self, job: TrainJob, reference: Sequence[Receipt], meanwhile: Callable[[], None]) -> list[StepReport]:
        """Run the round's optimiser steps; ``meanwhile`` is called every second."""
        label = f"train round {job.round}"
        return self._gang.call_all("train", job, reference, label=label, meanwhile=meanwhile)[0]

    def steps(self, since: int) -> Future[list[StepReport]]:
        """What :meth:`train` has done so far, from step ``since`` on; answered by rank 0 while it works."""
        return self._gang.members[0].call("steps", since, control=True)

    def check_checkpoint(self, job: TrainJob, checkpoint: StepCheckpoint) -> list[tuple[FileFault, ...]]:
        """Have every rank look at its files of a step checkpoint; what is wrong with them, by rank."""
        label = f"check step checkpoint {checkpoint.num_steps} of round {job.round}"
        return self._gang.call_all("check_checkpoint", job, checkpoint, label=label)

    def newest_checkpoint(self) -> Future[StepCheckpoint | None]:
        """The newest step checkpoint of :meth:`train`; answered by rank 0 while it works."""
        return self._gang.members[0].call("newest_checkpoint", control=True)

    def save_snapshot(self, path: RunPath, version: int) -> WrittenSnapshot:
        """Have the present weights written to ``path`` (absolute); rank 0 says what it wrote."""
        written: WrittenSnapshot = self._gang.call_all("save_snapshot", path, label=f"snapshot v{version}")[0]
        return written

    def drop_passing_files(self, job: TrainJob) -> None:
        """Have the round's step checkpoints and decoded rows removed."""
        self._gang.call_all("drop_passing_files", job)

    # --- a push; the caller holds the deadline

    def push_address(self) -> Future[tuple[str, int]]:
        """Where a push group can meet: on rank 0's machine."""
        return self._gang.members[0].call("push_address")

    def join_push_group(self, group: PushGroup, version: int) -> list[Future[None]]:
        """Have every rank join; only rank 0 sends."""
        return self._gang.submit_all("join_push_group", group, label=f"join push group v{version}")

    def push_specs(self, carried: Carried, timeout_s: float) -> list[TensorSpec]:
        """What will be sent, in order."""
        return self._gang.call_all("push_specs", carried, timeout_s=timeout_s)[0]

    def push_weights(self, carried: Carried, version: int) -> list[Future[Any]]:
        """Have the weights, or the adapters alone, sent; every rank takes part in gathering them."""
        return self._gang.submit_all("push_weights", carried, label=f"push v{version}")

    def leave_push_group(self) -> list[Future[None]]:
        """Have the push group dropped."""
        return self._gang.submit_all("leave_push_group")
