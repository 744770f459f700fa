"""Opens a tracker by name: the only place that names them."""

from __future__ import annotations

from bcpg_cluster.watch.tracking.tracker import TrackedRun, Tracker


def open_tracker(kind: str, run: TrackedRun) -> Tracker:
    """Make a tracker. Imports its package."""
    match kind:
        case "tensorboard":
            from bcpg_cluster.watch.tracking.tensorboard_tracker import TensorboardTracker

            return TensorboardTracker(run)
        case "trackio":
            from bcpg_cluster.watch.tracking.trackio_tracker import TrackioTracker

            return TrackioTracker(run)
        case "wandb":
            from bcpg_cluster.watch.tracking.wandb_tracker import WandbTracker

            return WandbTracker(run)
        case "mlflow":
            from bcpg_cluster.watch.tracking.mlflow_tracker import MlflowTracker

            return MlflowTracker(run)
    raise ValueError(f"unknown tracker {kind!r}")
