"""TensorBoard: an event file below ``tensorboard/<run>``, written without TensorFlow or torch."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path

from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.compat.proto.tensor_pb2 import TensorProto
from tensorboard.compat.proto.types_pb2 import DT_STRING
from tensorboard.plugins.text.metadata import create_summary_metadata
from tensorboard.summary.writer.event_file_writer import EventFileWriter

from bcpg_cluster.watch.tracking.tracker import Axis, TrackedRun


class TensorboardTracker:
    """See :class:`bcpg_cluster.watch.tracking.tracker.Tracker`."""

    def __init__(self, run: TrackedRun) -> None:
        folder = Path(run.folder) / "tensorboard"
        self._writer = EventFileWriter(str(folder / run.name), flush_secs=5)
        self._write(_text("run/page", run.page_words), 0)
        self.where = f"tensorboard --logdir {folder}"

    def log(self, axis: Axis, step: int, values: Mapping[str, float]) -> None:
        """One event with all values; tags keep rounds and training steps apart."""
        self._write(
            Summary(value=[Summary.Value(tag=name, simple_value=value) for name, value in values.items()]), step
        )

    def _write(self, summary: Summary, step: int) -> None:
        self._writer.add_event(Event(wall_time=time.time(), step=step, summary=summary))

    def close(self) -> None:
        """Flush and close the file."""
        self._writer.close()


def _text(tag: str, markdown: str) -> Summary:
    """A text that TensorBoard shows under Text."""
    tensor = TensorProto(dtype=DT_STRING, string_val=[markdown.encode()])
    metadata = create_summary_metadata(display_name=tag, description="")
    return Summary(value=[Summary.Value(tag=tag, metadata=metadata, tensor=tensor)])
