"""Who listens to a run besides the terminal: the live status, Ray's metrics, and the trackers of the configuration."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

from bcpg_cluster.cluster.on_ray.runtime import RayRuntime
from bcpg_cluster.cluster.runtime import Runtime
from bcpg_cluster.config.run import Config
from bcpg_cluster.config.tracking import TRACKERS
from bcpg_cluster.errors import ConfigError
from bcpg_cluster.store.manifest import Manifest
from bcpg_cluster.watch.live_status import LiveStatus
from bcpg_cluster.watch.observer import Noted, Observer, Observers
from bcpg_cluster.watch.prometheus.catalog import METRICS
from bcpg_cluster.watch.prometheus.grafana import shipped_dashboard
from bcpg_cluster.watch.prometheus.run_metrics import RunMetrics
from bcpg_cluster.watch.tracking.observer import tracking


@contextmanager
def listeners(display: Observer, config: Config, manifest: Manifest, runtime: Runtime) -> Iterator[Observer]:
    """``display`` and all others as one observer; trackers are given time to finish when the run is over."""
    with (
        ray_metrics(config, manifest) if isinstance(runtime, RayRuntime) else nullcontext() as metrics,
        LiveStatus(manifest.run_dir) as live,
        tracking(config, manifest.run_dir, manifest.state, lambda text: display.hear(Noted(text))) as trackers,
    ):
        others: tuple[Observer | None, ...] = (metrics, live, trackers)
        yield Observers([display, *(other for other in others if other is not None)])


@contextmanager
def ray_metrics(config: Config, manifest: Manifest) -> Iterator[RunMetrics]:
    """Metrics of the run by way of Ray, and the dashboard for them where Ray keeps Grafana's."""
    from bcpg_cluster.cluster.on_ray.metrics import RayMetrics, provision_dashboard, ray_session_folder

    session = ray_session_folder()
    if session is not None:
        provision_dashboard(session, shipped_dashboard())
    with RayMetrics(METRICS, manifest.run_dir.name) as sink:
        yield RunMetrics(
            sink,
            voters=config.voters,
            measures=config.measures,
            earlier=(receipt for shards in manifest.state.shards.values() for receipt in shards.values()),
        )


def track_overrides(kinds: list[str], config: Config) -> list[str]:
    """``--track`` as overrides: a tracker the configuration has a section for keeps it.

    Raises:
        ConfigError: an unknown tracker.
    """
    unknown = [kind for kind in kinds if kind not in TRACKERS]
    if unknown:
        raise ConfigError(
            f"--track {unknown[0]}: unknown tracker",
            rule=f"trackers are {', '.join(TRACKERS)}",
            remedy="correct the name",
        )
    return [f"tracking.{kind}={{}}" for kind in kinds if kind not in config.tracking.chosen]
