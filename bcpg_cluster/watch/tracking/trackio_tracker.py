"""trackio: its local database below ``trackio/``, or a Hugging Face Space with ``space_id``."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from bcpg_cluster.watch.tracking.tracker import Axis, TrackedRun


class TrackioTracker:
    """See :class:`bcpg_cluster.watch.tracking.tracker.Tracker`."""

    def __init__(self, run: TrackedRun) -> None:
        folder = Path(run.folder) / "trackio"
        folder.mkdir(parents=True, exist_ok=True)
        os.environ["TRACKIO_DIR"] = str(folder)  # read when trackio is imported
        import trackio

        project = run.options.get("project") or run.project
        space = run.options.get("space_id")
        self._run = trackio.init(
            project=project,
            name=run.name,
            space_id=space,
            config=dict(run.config),
            resume="allow",
            embed=False,
            auto_log_cpu=False,
            auto_log_gpu=False,
        )
        self.where = f"Space {space}" if space else f"TRACKIO_DIR={folder} trackio show --project {project}"

    def log(self, axis: Axis, step: int, values: Mapping[str, float]) -> None:
        """One row; a panel shows either rounds or training steps, since no name is in both."""
        self._run.log(dict(values), step=step)

    def close(self) -> None:
        """Wait until what was logged is stored."""
        self._run.finish()
