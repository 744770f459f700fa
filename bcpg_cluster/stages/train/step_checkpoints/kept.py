"""Which step checkpoints of a training stay on disk, and which of them the driver was told of."""

from __future__ import annotations

from pathlib import Path

from bcpg_cluster.records import StepCheckpoint
from bcpg_cluster.stages.train.step_checkpoints.record import checkpoint_name, keep_only

_NUM_KEPT = 2  # where the newest is damaged, there is one before it


class KeptCheckpoints:
    """Kept by the trainer's thread, asked by the driver through a thread of its own.

    A checkpoint counts once the driver noted it, and it is told of the newest alone. So the two newest that it was told of
    stay, and the newest of all; a checkpoint that it never heard of goes when the next one is written.
    """

    def __init__(self) -> None:
        self._newest: StepCheckpoint | None = None
        self._told: list[int] = []

    def begin(self, checkpoint_dir: Path, resume: StepCheckpoint | None) -> None:
        """A training begins at a checkpoint, or at step 0; what lies there and is not of its past is removed."""
        self._newest = resume
        last = -1 if resume is None else resume.num_steps
        past = [number for number in _numbers(checkpoint_dir) if number <= last]
        self._told = past
        keep_only(checkpoint_dir, {checkpoint_name(number) for number in past})

    def add(self, checkpoint: StepCheckpoint) -> set[str]:
        """A checkpoint was written; the names of those that stay."""
        self._newest = checkpoint
        return {checkpoint_name(number) for number in (*self._told[-_NUM_KEPT:], checkpoint.num_steps)}

    def tell(self) -> StepCheckpoint | None:
        """The newest; from now on the driver counts on it."""
        newest = self._newest
        if newest is not None and newest.num_steps not in self._told:
            self._told = [*self._told[-_NUM_KEPT:], newest.num_steps]
        return newest


def _numbers(checkpoint_dir: Path) -> list[int]:
    names = [path.name for path in checkpoint_dir.glob("step-*")]
    return sorted(int(name[5:]) for name in names if name[5:].isdigit() and checkpoint_name(int(name[5:])) == name)
