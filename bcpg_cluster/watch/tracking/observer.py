"""An observer that tells trackers of a run: a step of axis ``train`` for each optimiser step, one of ``round`` for each report."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

from bcpg_cluster.config.run import Config
from bcpg_cluster.config.tracking import TrackingConfig
from bcpg_cluster.errors import ConfigError
from bcpg_cluster.stages.train.protocol import StepReport
from bcpg_cluster.store.manifest import ManifestState
from bcpg_cluster.store.mark import leave_mark
from bcpg_cluster.store.path import RunPath
from bcpg_cluster.watch.observer import Event, PoolsSeen, Retried, RoundFinished, ShardAccepted, StepTrained
from bcpg_cluster.watch.tracking.feed import Feed
from bcpg_cluster.watch.tracking.scalars import RoundTally, round_scalars, step_scalars
from bcpg_cluster.watch.tracking.tracker import Axis, TrackedRun

CLOSE_DEADLINE_S = 120.0
_NEEDS = {
    "tensorboard": ("tensorboard",),
    "trackio": ("trackio",),
    "wandb": ("wandb",),
    "mlflow": ("mlflow", "sqlalchemy"),
}


class TrackingObserver:
    """Tells every feed the same. A feed that failed is reported once, by ``note``, and left alone.

    Args:
        steps: optimiser steps of rounds that were trained before this process, so that steps count over the whole run.
        note: called from the thread that calls the observer.
    """

    def __init__(self, feeds: Sequence[Feed], steps: Mapping[int, int], note: Callable[[str], None]) -> None:
        self._feeds, self._note = list(feeds), note
        self._shown: set[str] = set()
        self._steps = dict(steps)
        self._tally = RoundTally()

    def _look(self) -> None:
        for feed in list(self._feeds):
            if feed.failure is not None:
                self._note(f"{feed.kind} is gone, the run continues without it: {feed.failure} (see {feed.log_path})")
                self._feeds.remove(feed)
            elif feed.where is not None and feed.kind not in self._shown:
                self._note(f"{feed.kind}: {feed.where}")
                self._shown.add(feed.kind)

    def hear(self, event: Event) -> None:
        """Log optimiser steps and rounds; count the rest for the round."""
        match event:
            case StepTrained(round=round_, step=step):
                self._step(round_, step)
            case RoundFinished(report=report):
                self._log("round", report.round, round_scalars(report) | self._tally.take())
            case ShardAccepted(receipt=receipt):
                self._tally.receipt(receipt)
            case PoolsSeen(states=states):
                for pool in states:
                    self._tally.pool(pool.name, pool.busy_s, pool.ready_s)
            case Retried():
                self._tally.retry()
                return
            case _:
                return
        self._look()

    def _step(self, round_: int, step: StepReport) -> None:
        """A step of axis ``train``; steps count from 1 over all rounds."""
        self._steps[round_] = step.step + 1
        number = sum(done for of_round, done in self._steps.items() if of_round <= round_)
        self._log("train", number, step_scalars(step))

    def _log(self, axis: Axis, step: int, values: dict[str, float]) -> None:
        for feed in self._feeds:
            feed.log(axis, step, values)

    def close(self, deadline_s: float = CLOSE_DEADLINE_S) -> None:
        """Let the trackers finish, all at once; what one of them did not manage is said."""
        until = time.monotonic() + deadline_s
        for feed in self._feeds:
            feed.finish()
        for feed in self._feeds:
            feed.close(max(until - time.monotonic(), 1.0))
        self._look()


def check_trackers(tracking: TrackingConfig) -> None:
    """Check that the packages of the chosen trackers are installed, without importing them.

    Raises:
        ConfigError: one is not installed.
    """
    for kind in tracking.chosen:
        missing = [package for package in _NEEDS[kind] if find_spec(package) is None]
        if missing:
            raise ConfigError(
                f"tracking.{kind}: the package {' and '.join(missing)} is not installed",
                rule="each tracker is an extra of this project",
                remedy=f"pip install 'bcpg-cluster[{kind}]', or leave the tracker out",
            )


@contextmanager
def tracking(
    config: Config, run_dir: RunPath, state: ManifestState, note: Callable[[str], None]
) -> Iterator[TrackingObserver | None]:
    """The observer for a run, its trackers started; ``None`` when the configuration chooses none."""
    if not config.tracking.chosen:
        yield None
        return
    observer = TrackingObserver(
        list(_started(config, run_dir, note)),
        {
            version: int(record.training.steps)
            for version, record in state.snapshots.items()
            if record.training is not None
        },
        note,
    )
    try:
        yield observer
    finally:
        observer.close()


def _started(config: Config, run_dir: RunPath, note: Callable[[str], None]) -> Iterator[Feed]:
    """A feed for each tracker; what the machine does not let start (a full disk, no files left) is said, and left out."""
    for kind in config.tracking.chosen:
        run = tracked_run(config, kind, run_dir)
        try:
            yield Feed(kind, run)
        except OSError as error:
            note(f"{kind} did not start, the run continues without it: {error}")


def tracked_run(config: Config, kind: str, run_dir: RunPath) -> TrackedRun:
    """The run as the tracker ``kind`` is told of it; its mark tells it from another run in a directory of the same name."""
    beside = (
        run_dir.absolute().parent if isinstance(run_dir, Path) else Path()
    )  # a tracker writes to this machine's disk
    folder = Path(config.tracking.folder) if config.tracking.folder else beside / "tracking"
    options = getattr(config.tracking, kind).model_dump(mode="json")
    return TrackedRun(
        id=leave_mark(run_dir).text.strip()[:16],
        name=run_dir.name,
        project=config.name,
        folder=str(folder.absolute()),
        directory=str(run_dir.absolute()),
        page=config.tracking.page,
        config=config.model_dump(mode="json", exclude={"tracking"}),
        options=options,
    )
