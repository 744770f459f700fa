"""Where a training that was cut off resumes: the newest step checkpoint that every rank finds whole."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from bcpg_cluster.records import StepCheckpoint
from bcpg_cluster.stages.push.file_digests import FileFault
from bcpg_cluster.stages.train.client import TrainerClient
from bcpg_cluster.stages.train.step_checkpoints.record import checkpoint_name
from bcpg_cluster.stages.train.worker import TrainJob
from bcpg_cluster.store.manifest import Manifest
from bcpg_cluster.watch.observer import Observer, Retried

_MOST_NAMED = 3  # faults in a sentence


def choose_resume_point(
    manifest: Manifest, trainers: TrainerClient, job: TrainJob, given_up: Collection[StepCheckpoint], observer: Observer
) -> StepCheckpoint | None:
    """Ask the ranks about the step checkpoints that the manifest vouches for, the newest first.

    What is passed over is told, noted and no longer counted.

    Args:
        given_up: those that tries before this one failed on.

    Returns:
        The newest that is whole for every rank; ``None`` begins at step 0.
    """
    passed: list[tuple[StepCheckpoint, str]] = []
    point = None
    for checkpoint in reversed(manifest.state.step_checkpoints.get(job.round, [])):
        why = (
            "the try before failed on it"
            if checkpoint in given_up
            else _why_not(checkpoint, trainers.check_checkpoint(job, checkpoint))
        )
        if not why:
            point = checkpoint
            break
        passed.append((checkpoint, why))
    start = 0 if point is None else point.num_steps
    for checkpoint, why in passed:
        what = f"step checkpoint {checkpoint.num_steps} of round {job.round}"
        text = f"{why}; training resumes from step {start}"
        manifest.add_retry(what, text)
        observer.hear(Retried(what, text))
    if passed:
        manifest.add_fall_back(job.round, start)
    return point


def _why_not(checkpoint: StepCheckpoint, by_rank: Sequence[Sequence[FileFault]]) -> str:
    """What is wrong with a checkpoint, a file that several ranks read once; empty where nothing is."""
    found: dict[str, list[int]] = {}
    for rank, faults in enumerate(by_rank):
        for fault in faults:
            found.setdefault(f"{checkpoint_name(checkpoint.num_steps)}/{fault}", []).append(rank)
    named = [f"{text} (rank {', '.join(map(str, ranks))})" for text, ranks in found.items()]
    more = f"; and {len(named) - _MOST_NAMED} more" if len(named) > _MOST_NAMED else ""
    return "; ".join(named[:_MOST_NAMED]) + more
