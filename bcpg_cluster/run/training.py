"""One round's training by the trainer group: reference pass, step plan, canaries, snapshot. Restarts from checkpoints."""

from __future__ import annotations

import json
import time
from collections.abc import Collection, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from bcpg_cluster.cluster.gang import Gang
from bcpg_cluster.errors import DataError, EngineError, MemberLostError
from bcpg_cluster.records import StepCheckpoint
from bcpg_cluster.run.pipeline.reference_pass import ReferencePass
from bcpg_cluster.run.recovery.resume_point import choose_resume_point
from bcpg_cluster.run.serving import Weights
from bcpg_cluster.stages.graph import REFERENCE
from bcpg_cluster.stages.push.canaries import CANARIES, Canary, write_canaries
from bcpg_cluster.stages.train.client import TrainerClient
from bcpg_cluster.stages.train.objective import Objective
from bcpg_cluster.stages.train.protocol import StepReport, TrainSettings
from bcpg_cluster.stages.train.worker import TrainJob
from bcpg_cluster.stages.weigh.counts import WeighCounts
from bcpg_cluster.store.faults import FaultEvent, FaultKind
from bcpg_cluster.store.layout import checkpoint_path, decoded_path, new_attempt, snapshot_path
from bcpg_cluster.store.manifest import Manifest, SnapshotRecord
from bcpg_cluster.store.path import RunPath
from bcpg_cluster.store.reports import TrainingSummary
from bcpg_cluster.store.whole_files import make_parents, remove_tree, write_whole
from bcpg_cluster.watch.observer import Event, Faulted, Observer, StageProgress, StepTrained

_WHAT_A_ROW_IS = {
    "all": "a response of a group with right and wrong ones",
    "right": "a right response",
    "wrong": "a wrong response",
    "pairs": "a pair of a right and a wrong response to one prompt",
    "mismatched": "a response of a group with right and wrong ones",
}


def steps_path(round_: int) -> str:
    """The file of a round's step reports in the run directory: one JSON object a line, one line a step."""
    return f"reports/training-{round_:04d}.jsonl"


def check_rows(weighed: WeighCounts, objective: Objective) -> None:
    """Check what weigh counted, before any engine starts.

    Args:
        weighed: of the whole round.
        objective: what the rows are to train.

    Raises:
        DataError: the round has no row that the objective could train on.
    """
    usable = {"right": weighed.right_rows, "wrong": weighed.wrong_rows}.get(objective.rows, weighed.rows)
    if usable > 0:
        return
    raise DataError(
        f"the objective {objective.name!r} has nothing to train on: table weighted has rows = {weighed.rows}, "
        f"rows.right = {weighed.right_rows}, rows.wrong = {weighed.wrong_rows}",
        rule=f"each of its rows is {_WHAT_A_ROW_IS[objective.rows]}, and a round needs at least one",
        remedy="raise prompts.per_round or generate.group_size, choose problems that the policy gets right now and then, "
        "or train with another objective",
    )


def train_round(
    manifest: Manifest,
    gang: Gang,
    *,
    round_: int,
    start: Weights,
    settings: TrainSettings,
    num_canaries: int,
    observer: Observer,
    max_attempts: int = 3,
    reference_waited_s: float = 0.0,
) -> SnapshotRecord:
    """Train version ``round_`` from the sealed table of its round and count its snapshot.

    A group that is lost is started again and resumes from the last step checkpoint that is whole on every rank. One that a try
    failed on is not used again.

    Args:
        reference_waited_s: how long the run has waited already for reference log-probs alone.

    Raises:
        DataError: the rows do not fit the objective.
        EngineError: the group failed ``max_attempts`` times.
        TrainingDivergedError: a loss, a gradient or a weight is not finite; no snapshot was written.
    """
    job = sealed_job(manifest, round_, start, settings)
    trained = _train_with_tries(manifest, gang, job, num_canaries, observer, max_attempts)
    steps = manifest.run_dir / steps_path(round_)
    make_parents(steps)
    write_whole(steps, "".join(json.dumps(asdict(report)) + "\n" for report in trained.reports).encode())
    manifest.add_snapshot(_with_wait(trained.record, reference_waited_s))
    _drop_passing_files(manifest, gang, trained.job)
    observer.hear(StageProgress(round_, "train", 4, 4))
    return manifest.state.snapshots[round_]


def train_again(
    manifest: Manifest,
    gang: Gang,
    *,
    round_: int,
    start: Weights,
    settings: TrainSettings,
    num_canaries: int,
    observer: Observer,
    max_attempts: int = 3,
) -> SnapshotRecord:
    """Train a round that was trained before, from the same tables; the snapshot lies beside the one that counts, and counts
    itself for nothing. Raises like :func:`train_round`.
    """
    job = sealed_job(manifest, round_, start, replace(settings, checkpoint_every_steps=0))
    trained = _train_with_tries(manifest, gang, job, num_canaries, _FaultsAlone(observer), max_attempts)
    _drop_passing_files(manifest, gang, trained.job)
    return trained.record


def _drop_passing_files(manifest: Manifest, gang: Gang, job: TrainJob) -> None:
    """Step checkpoints and decoded rows: the round is trained."""
    if isinstance(manifest.run_dir, Path):
        for folder in (checkpoint_path(job.round), decoded_path(job.round)):
            remove_tree(manifest.run_dir / folder)
        return
    with suppress(EngineError):  # they are but files: whether the group still lives is for the push to see
        TrainerClient(gang).drop_passing_files(job)


class _FaultsAlone:
    """Steps that are taken again were told when they were first taken; what fails now was not."""

    def __init__(self, observer: Observer) -> None:
        self._observer = observer

    def hear(self, event: Event) -> None:
        """Pass on faults."""
        if isinstance(event, Faulted):
            self._observer.hear(event)


@dataclass(frozen=True, slots=True)
class _Trained:
    """A training that is done, and a snapshot that does not count yet; ``job`` as the last try was told."""

    job: TrainJob
    reports: Sequence[StepReport]
    record: SnapshotRecord


def open_job(manifest: Manifest, round_: int, start: Weights, settings: TrainSettings) -> TrainJob:
    """A round's training, without its rows."""
    return TrainJob(
        run_dir=manifest.run_dir.absolute(),
        round=round_,
        model_path=start.path,
        digests=start.digests,
        weighted=(),
        settings=settings,
        checkpoint_dir="",  # every try has one of its own
    )


def sealed_job(manifest: Manifest, round_: int, start: Weights, settings: TrainSettings) -> TrainJob:
    """A round's training, with the rows of its sealed table."""
    # Every rank gets the job, and it needs the files' names alone: the metrics are most of a receipt.
    weighted = tuple(replace(receipt, metrics={}) for receipt in manifest.state.receipts(round_, "weighted"))
    return replace(open_job(manifest, round_, start, settings), weighted=weighted)


def _train_with_tries(
    manifest: Manifest, gang: Gang, job: TrainJob, num_canaries: int, observer: Observer, max_attempts: int
) -> _Trained:
    what = f"train round {job.round}"
    teller = _StepTeller(TrainerClient(gang), job.round, observer, manifest)
    given_up: set[StepCheckpoint] = set()
    for attempt in range(1, max_attempts + 1):
        job = replace(job, checkpoint_dir=take_checkpoints(manifest.run_dir, job.round))
        try:
            return _train_once(manifest, gang, job, num_canaries, observer, teller, given_up)
        except EngineError as error:
            gang.kill()
            if attempt == max_attempts:
                raise
            # A lost rank says nothing of the checkpoint, unless it is lost every time.
            if not isinstance(error, MemberLostError) or attempt == max_attempts - 1:
                given_up |= teller.without_progress()
            then = f"the group starts again, from its last step checkpoint (try {attempt + 1} of {max_attempts})"
            observer.hear(Faulted(FaultEvent(FaultKind.RETRY, what, str(error), then, round=job.round, pool=gang.name)))
    raise AssertionError("unreachable")


def take_checkpoints(run_dir: RunPath, round_: int) -> str:
    """The directory for the step checkpoints of a group's next try, with what the last try left moved into it. (Where the run
    lies in an object store they are on the members' machines, and these do the moving.)

    A group that was given up may be at work still, on a host that lost its link. It keeps writing, and deleting, under the
    name that it was told; the move takes what counts out of its reach.
    """
    if not isinstance(run_dir, Path):
        return f"{checkpoint_path(round_)}/{new_attempt()}"
    tries = run_dir / checkpoint_path(round_)
    numbers = sorted(int(path.name) for path in tries.glob("[0-9]*"))
    last = numbers[-1] if numbers else 0
    taken = f"{checkpoint_path(round_)}/{last + 1:04d}"
    if numbers:
        (tries / f"{last:04d}").rename(run_dir / taken)
    return taken


class _StepTeller:
    """Tells the observer of every step once, while the training is running; a group that starts again repeats some. Notes its
    step checkpoints in the manifest: from then on they count.
    """

    def __init__(self, trainers: TrainerClient, round_: int, observer: Observer, manifest: Manifest) -> None:
        self._trainers, self._round, self._observer, self._manifest = trainers, round_, observer, manifest
        self._num_told = 0
        self._asked: Future[list[StepReport]] | None = None
        self._newest: Future[StepCheckpoint | None] | None = None
        self._resumed: StepCheckpoint | None = None

    def begin(self, resume: StepCheckpoint | None) -> None:
        """A try begins."""
        self._asked = self._newest = None
        self._resumed = resume

    def without_progress(self) -> set[StepCheckpoint]:
        """The checkpoint that the try resumed from, unless it wrote another."""
        counted = self._manifest.state.step_checkpoints.get(self._round, [])
        return {self._resumed} if self._resumed is not None and counted[-1:] == [self._resumed] else set()

    def look(self) -> None:
        """Tell what rank 0 answered, and ask it again; never waits."""
        if self._asked is None or self._asked.done():
            if self._asked is not None and self._asked.exception() is None:  # a rank that is lost shows elsewhere
                self._tell(self._asked.result())
            self._asked = self._trainers.steps(self._num_told)
        if self._newest is None or self._newest.done():
            if self._newest is not None and self._newest.exception() is None:
                self._note(self._newest.result())
            self._newest = self._trainers.newest_checkpoint()

    def _note(self, checkpoint: StepCheckpoint | None) -> None:
        if checkpoint is not None and checkpoint not in self._manifest.state.step_checkpoints.get(self._round, []):
            self._manifest.add_step_checkpoint(self._round, checkpoint)

    def finish(self, reports: Sequence[StepReport]) -> None:
        """Tell the steps that were not told yet."""
        self._asked = self._newest = None
        self._tell(reports[self._num_told :])

    def _tell(self, reports: Sequence[StepReport]) -> None:
        for report in reports:
            self._observer.hear(StepTrained(self._round, report))
        self._num_told += len(reports)


def _train_once(
    manifest: Manifest,
    gang: Gang,
    job: TrainJob,
    num_canaries: int,
    observer: Observer,
    teller: _StepTeller,
    given_up: Collection[StepCheckpoint],
) -> _Trained:
    started = time.monotonic()
    trainers = TrainerClient(gang)
    observer.hear(StageProgress(job.round, "train", 0, 4))
    gang.ensure_up()
    trainers.begin(job)
    opened = time.monotonic()
    observer.hear(StageProgress(job.round, "train", 1, 4))
    references = ReferencePass(manifest, trainers, gang.size, job.round, observer)
    references.begin()
    references.finish(job)
    referenced = time.monotonic()
    observer.hear(StageProgress(job.round, "train", 2, 4))
    sequences = trainers.canary_sequences(num_canaries)
    before = trainers.score(sequences)
    job = replace(job, resume=choose_resume_point(manifest, trainers, job, given_up, observer))
    teller.begin(job.resume)
    reports = trainers.train(job, tuple(manifest.state.receipts(job.round, REFERENCE)), meanwhile=teller.look)
    teller.finish(reports)
    trained = time.monotonic()
    observer.hear(StageProgress(job.round, "train", 3, 4))
    after = trainers.score(sequences)
    path = snapshot_path(job.round, new_attempt())
    absolute = manifest.run_dir.absolute() / path
    written = trainers.save_snapshot(absolute, job.round)
    canaries = [
        Canary(prompt, response, tuple(old), tuple(new))
        for (prompt, response), old, new in zip(sequences, before, after, strict=True)
    ]
    of_canaries = write_canaries(manifest.run_dir / path, canaries)
    record = SnapshotRecord(
        version=job.round,
        path=path,
        digests=dict(written.digests.stored),
        wire=dict(written.digests.wire),
        files={**written.files, CANARIES: of_canaries},
        adapters=written.adapters,
        seconds=time.monotonic() - started,
        training=_summary(
            reports,
            open_s=opened - started,
            reference_s=references.seconds(),
            reference_wait_s=referenced - opened,
            train_s=trained - referenced,
            snapshot_s=time.monotonic() - trained,
        ),
    )
    return _Trained(job, reports, record)


def _with_wait(record: SnapshotRecord, waited_s: float) -> SnapshotRecord:
    """The record, with what the run waited for reference log-probs before the training was asked for."""
    if record.training is None or record.training.reference_wait_s is None:
        return record
    wait_s = record.training.reference_wait_s + waited_s
    return replace(record, training=record.training.model_copy(update={"reference_wait_s": wait_s}))


def _summary(reports: Sequence[StepReport], **seconds: float) -> TrainingSummary:
    """What a round's report says of its training; a mean over nothing is left out."""
    if not reports:
        return TrainingSummary(steps=0.0, **seconds)
    first, last = reports[0], reports[-1]
    found = {
        "steps": float(len(reports)),
        "steps_planned": float(last.num_steps),
        "stopped_early": float(len(reports) < last.num_steps),
        "tokens": float(sum(report.num_tokens for report in reports)),
        "sequences": float(sum(report.num_sequences for report in reports)),
        "loss_first": first.loss,
        "loss_last": last.loss,
        "grad_norm_first": first.grad_norm,
        "grad_norm_last": last.grad_norm,
        "grad_norm_max": max(report.grad_norm for report in reports),
        "delta_per_token_right_last": last.delta_per_token_right,
        "delta_per_token_wrong_last": last.delta_per_token_wrong,
        "delta_per_token_mined_last": last.delta_per_token_mined,
        "delta_per_token_unmined_last": last.delta_per_token_unmined,
        "entropy_first": first.entropy,
        "entropy_last": last.entropy,
        "clipped_up_last": last.clipped_up,
        "clipped_down_last": last.clipped_down,
        "positive_mass_last": last.positive_mass,
    }
    return TrainingSummary(**{name: value for name, value in found.items() if value is not None}, **seconds)
