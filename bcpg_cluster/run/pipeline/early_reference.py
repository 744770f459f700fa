"""Reference log-probs on the idle trainers, while the other pools make the round's data.

A response's place in the weighted table depends on outcomes alone (``stages.weigh.trained_rows``), so a shard can be done as
soon as it is verified, before any judge has answered. This is ahead of the work and nothing depends on it: what it did not get
to, or failed on, is computed before the training (``run.training``), which has tries of its own.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any

from bcpg_cluster.cluster.gang import Gang
from bcpg_cluster.errors import DamagedShardError, EngineError, Interrupted, note_other
from bcpg_cluster.run.pipeline.reference_pass import ReferencePass
from bcpg_cluster.run.snapshots import SnapshotDamagedError
from bcpg_cluster.stages.train.client import TrainerClient
from bcpg_cluster.stages.train.worker import ReferencePiece, TrainJob
from bcpg_cluster.store.faults import FaultEvent, FaultKind
from bcpg_cluster.store.manifest import Manifest
from bcpg_cluster.watch.observer import Faulted, Observer

_LOOK_S = 0.1  # between two looks for verified shards
_READ = ("rollouts", "outcomes")


class EarlyReference:
    """A context manager around a round's data half: inside, a thread of its own has the trainers work. At the end it finishes the
    shard it is at; an error that trying again cannot fix is raised there, or by :meth:`look`.

    Args:
        job: the round's training, without its rows.
        weigh: the run's settings of ``weigh``, which say what is trained on.
        check_start: raises where the start weights are not what was written; called in the thread.
        tend: called about once a second while the end is waited for.
        without_training: inside it, waiting for the trainers ends soon with ``Interrupted``.
    """

    def __init__(
        self,
        manifest: Manifest,
        gang: Gang,
        job: TrainJob,
        weigh: Any,
        *,
        check_start: Callable[[], None],
        observer: Observer,
        tend: Callable[[], None],
        without_training: Callable[[], AbstractContextManager[None]],
    ) -> None:
        self._manifest, self._gang, self._job, self._weigh = manifest, gang, job, weigh
        self._check_start, self._observer = check_start, observer
        self._tend, self._without_training = tend, without_training
        self._pass = ReferencePass(manifest, TrainerClient(gang), gang.size, job.round, observer)
        self._over = threading.Event()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="early-reference")
        self._work: Future[None] | None = None
        self._opened: float | None = None
        self.waited_s = 0.0
        """How long the run waited at the end for the shard under way, and for nothing else."""

    def __enter__(self) -> EarlyReference:
        self._pass.begin()
        self._work = self._thread.submit(self._run)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        if self._work is None:
            return
        began = time.monotonic()
        try:
            if kind is None:
                while wait([self._work], timeout=1.0).not_done:
                    self._tend()
                self._work.result()
        finally:
            with self._without_training():
                self._thread.shutdown()
            if error is not None:
                note_other(error, self._work.exception(), "the reference pass beside it failed too")
            if self._opened is not None:  # trainers that were still starting are waited for in any order
                self.waited_s = time.monotonic() - max(began, self._opened)

    def look(self) -> None:
        """Raise what ended the thread, where that ends the run. A stop is for the data half to see, which ends in its own way."""
        if self._work is not None and self._work.done() and not isinstance(self._work.exception(), Interrupted):
            self._work.result()

    def _run(self) -> None:
        try:
            self._check_start()
            self._gang.ensure_up()
            TrainerClient(self._gang).open(self._job)
            self._opened = time.monotonic()
            while not self._over.is_set():
                if not self._compute_what_is_ready():
                    self._over.wait(_LOOK_S)
        except (DamagedShardError, SnapshotDamagedError):
            return  # whoever needs it finds the same damage, and has it mended
        except EngineError as error:
            self._gang.kill()
            then = "the rest is computed before the training"
            what = f"reference pass round {self._job.round}"
            fault = FaultEvent(FaultKind.RETRY, what, str(error), then, round=self._job.round, pool=self._gang.name)
            self._observer.hear(Faulted(fault))

    def _compute_what_is_ready(self) -> bool:
        """One shard; whether there was one."""
        by_table = [self._manifest.state.shards.get((self._job.round, table), {}) for table in _READ]
        verified = [shard for shard in list(by_table[-1]) if all(shard in accepted for accepted in by_table)]
        for shard in sorted(self._pass.missing(verified)):
            inputs = {table: accepted[shard] for table, accepted in zip(_READ, by_table, strict=True)}
            self._pass.compute(self._job, ReferencePiece(shard, inputs, self._weigh))
            return True
        return False
