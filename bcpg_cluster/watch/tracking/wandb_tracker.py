"""Weights & Biases: offline by default (no account; ``wandb sync`` uploads it later), online with ``mode: online``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import wandb

from bcpg_cluster.watch.tracking.tracker import Axis, TrackedRun, may_replace

_STEP = {"round": "round/number", "train": "train/step"}


class WandbTracker:
    """See :class:`bcpg_cluster.watch.tracking.tracker.Tracker`.

    wandb's own step only grows, and rounds and training steps are two axes: so each row names its step, and wandb is told which
    values run over which.
    """

    def __init__(self, run: TrackedRun) -> None:
        folder = Path(run.folder) / "wandb"
        folder.mkdir(parents=True, exist_ok=True)
        mode = run.options.get("mode", "offline")
        self._run = wandb.init(
            id=run.id,
            name=run.name,
            project=run.options.get("project") or run.project,
            entity=run.options.get("entity"),
            dir=str(folder),
            mode=mode,
            resume="allow"
            if mode == "online"
            else None,  # offline wandb has nothing to resume from; `wandb sync` joins by id
            config=dict(run.config),
            settings=wandb.Settings(
                console="off", silent=True, disable_code=True, disable_git=True, x_disable_stats=True, init_timeout=60
            ),
        )
        if may_replace(self._run.notes):
            self._run.notes = run.page_words
        self._run.summary["page"] = run.page or run.page_command
        for axis, step in _STEP.items():
            self._run.define_metric(step, hidden=True)
            self._run.define_metric(f"{axis}/*", step_metric=step)
        self.where = self._run.url or f"wandb sync {Path(self._run.dir).parent}"

    def log(self, axis: Axis, step: int, values: Mapping[str, float]) -> None:
        """One row of history."""
        self._run.log({**values, _STEP[axis]: step})

    def close(self) -> None:
        """Finish the run."""
        self._run.finish()
