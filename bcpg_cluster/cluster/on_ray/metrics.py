"""Metrics by way of Ray: what this process sets here is exported by the Ray agent of its node, where Prometheus finds it.

One of the files of ``cluster`` that import Ray.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Protocol

DASHBOARD_FILE = "bcpg_grafana_dashboard.json"
_REFRESH_S = 1.0  # the shortest report interval Ray knows
_SHORT_INTERVAL_S = 2.0
_INTERVAL = "RAY_metrics_report_interval_ms"  # as Ray spells it


class Declared(Protocol):
    """What is declared of a metric; see ``watch.prometheus.catalog.Metric``."""

    @property
    def name(self) -> str: ...  # noqa: D102
    @property
    def kind(self) -> str: ...  # noqa: D102
    @property
    def tags(self) -> tuple[str, ...]: ...  # noqa: D102
    @property
    def meaning(self) -> str: ...  # noqa: D102


class RayMetrics:
    """A sink for ``watch.prometheus.run_metrics`` that feeds Ray's metrics. Ray must be initialised in this process.

    Ray's agent forgets a gauge that was not set again for two report intervals, so a thread sets all of them once a second, from
    entry to exit of the context.

    Args:
        run: the value of every metric's ``run`` tag.
    """

    def __init__(self, metrics: Iterable[Declared], run: str) -> None:
        from ray.util.metrics import Counter, Gauge

        kinds: dict[str, Any] = {"counter": Counter, "gauge": Gauge}
        self._metrics: dict[str, Any] = {}
        for metric in metrics:
            made = kinds[metric.kind](metric.name, description=metric.meaning, tag_keys=("run", *metric.tags))
            self._metrics[metric.name] = made.set_default_tags({"run": run})
        self._gauges: dict[tuple[str, tuple[tuple[str, str], ...]], float] = {}
        self._guard = threading.Lock()
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._refresh, name="ray-metrics", daemon=True)

    def __enter__(self) -> RayMetrics:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        # Where metrics are handed on this often (Ray's default is ten seconds), the last of them can be waited for.
        interval_s = float(os.environ.get(_INTERVAL, "10000")) / 1000
        if interval_s <= _SHORT_INTERVAL_S:
            time.sleep(1.5 * interval_s)
        self._is_over.set()
        self._thread.join()

    def _refresh(self) -> None:
        while not self._is_over.wait(_REFRESH_S):
            with self._guard:
                for (name, tags), value in self._gauges.items():
                    self._metrics[name].set(value, tags=dict(tags))

    def add(self, name: str, amount: float, **tags: str) -> None:
        """Let a counter grow; by nothing when ``amount`` is 0 (Ray refuses that)."""
        if amount > 0:
            self._metrics[name].inc(float(amount), tags=tags)

    def set(self, name: str, value: float, **tags: str) -> None:
        """Give a gauge its present value."""
        with self._guard:
            self._gauges[name, tuple(tags.items())] = float(value)
            self._metrics[name].set(float(value), tags=tags)


def ray_session_folder() -> Path | None:
    """This process's Ray session on this machine; ``None`` without one (a Ray client elsewhere)."""
    import ray

    node = ray._private.worker.global_worker.node if ray.is_initialized() else None
    return Path(node.get_session_dir_path()) if node is not None else None


def provision_dashboard(session: Path, content: str) -> Path | None:
    """Put a Grafana dashboard where Ray's own Grafana provisioning reads dashboards.

    Ray makes that folder on the head node when its dashboard starts, and points Grafana's provisioning at it.

    Returns:
        The file; ``None`` where the session has no such folder (not the head node, or a Ray without a dashboard).
    """
    folder = session / "metrics" / "grafana" / "dashboards"
    if not folder.is_dir():
        return None
    path = folder / DASHBOARD_FILE
    path.write_text(content)
    return path
