"""trackio: its local database below ``trackio/``, or a Hugging Face Space with ``space_id``."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bcpg_cluster.errors import BcpgError
from bcpg_cluster.watch.tracking.traces import SampleTrace, sample_traces
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
        self._tracked, self._num_traces = run, int(run.options.get("traces", 0))
        self._run.log({"page": trackio.Markdown(run.page_words)}, step=0)
        self.where = f"Space {space}" if space else f"TRACKIO_DIR={folder} trackio show --project {project}"

    def log(self, axis: Axis, step: int, values: Mapping[str, float]) -> None:
        """One row; a panel shows either rounds or training steps, since no name is in both. A round's has traces of samples."""
        row: dict[str, Any] = dict(values)
        if axis == "round" and step > 0 and self._num_traces and (traces := self._traces(step)):
            row["samples"] = traces
        self._run.log(row, step=step)

    def _traces(self, round_: int) -> list[Any]:
        """The round's samples; none, with a line in the log, where its tables cannot be read."""
        from trackio import Trace

        try:
            found: list[SampleTrace] = sample_traces(self._tracked, round_, self._num_traces)
        except (BcpgError, OSError) as error:
            print(f"round {round_} has no traces: {error}")
            return []
        return [Trace([*trace.messages], dict(trace.metadata), [*trace.spans]) for trace in found]

    def close(self) -> None:
        """Wait until what was logged is stored."""
        self._run.finish()
