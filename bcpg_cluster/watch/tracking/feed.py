"""From the run to a tracker's process. Nothing here ever waits for the tracker while the run is running."""

from __future__ import annotations

import json
import queue
import subprocess
import sys
import threading
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from bcpg_cluster.watch.tracking.tracker import Axis, TrackedRun

_BACKLOG = 10_000  # entries a tracker may lag behind before it is given up
_END = ""


class Feed:
    """A tracker's process and the thread that writes to it.

    Args:
        command: how the process is started, less its kind.
    """

    def __init__(self, kind: str, run: TrackedRun, command: tuple[str, ...] | None = None) -> None:
        self.kind = kind
        self._failure: str | None = None
        self._where: str | None = None
        self._lines: queue.Queue[str] = queue.Queue(_BACKLOG)
        folder = Path(run.folder)
        folder.mkdir(parents=True, exist_ok=True)
        self.log_path = folder / f"{kind}.log"
        module = (sys.executable, "-m", "bcpg_cluster.watch.tracking.child")
        with self.log_path.open("ab") as log:
            self._process = subprocess.Popen(
                [*(command or module), kind], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log
            )
        self._put(json.dumps(asdict(run)))
        self._writer = threading.Thread(target=self._write, name=f"{kind}-writer", daemon=True)
        self._reader = threading.Thread(target=self._read, name=f"{kind}-reader", daemon=True)
        self._writer.start()
        self._reader.start()

    def log(self, axis: Axis, step: int, values: Mapping[str, float]) -> None:
        """Queue values; dropped once the tracker has failed."""
        if values and self._failure is None:
            self._put(json.dumps({"axis": axis, "step": step, "values": dict(values)}))

    def _put(self, line: str) -> None:
        try:
            self._lines.put_nowait(line)
        except queue.Full:
            self._fail(f"it lags {_BACKLOG} entries behind")

    def _fail(self, why: str) -> None:
        if self._failure is None:
            self._failure = why

    @property
    def failure(self) -> str | None:
        """Why the tracker is gone; ``None`` while it lives."""
        return self._failure

    @property
    def where(self) -> str | None:
        """Where to look; ``None`` until the tracker has said."""
        return self._where

    def _write(self) -> None:
        stream = self._process.stdin
        assert stream is not None
        try:
            while (line := self._lines.get()) != _END:
                stream.write(line.encode() + b"\n")
                stream.flush()
            stream.close()
        except OSError:
            pass  # it has ended; the reader knows why

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            answer = json.loads(line)
            if "where" in answer:
                self._where = answer["where"]
            else:
                self._fail(answer["failed"])
        if self._process.wait() != 0:
            self._fail(f"its process ended with {self._process.returncode}")

    def finish(self) -> None:
        """Ask the tracker to write what it has and to end; waits for nothing."""
        self._put(_END)

    def close(self, deadline_s: float) -> None:
        """Wait for a tracker that was asked to finish, at most until the deadline; then end it."""
        try:
            self._process.wait(deadline_s)
        except subprocess.TimeoutExpired:
            self._fail(f"it did not finish within {deadline_s:.0f} s")
            self._process.kill()
        self._reader.join(5.0)
        if self._process.stdout is not None and not self._reader.is_alive():
            self._process.stdout.close()
