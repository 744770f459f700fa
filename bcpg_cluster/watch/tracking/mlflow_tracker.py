"""MLflow: a SQLite store below ``mlflow/``, or a tracking server with ``uri``."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Metric, Param

from bcpg_cluster.watch.tracking.tracker import Axis, TrackedRun, may_replace

_ID_TAG = "bcpg_cluster.run_id"
_PAGE_TAG = "bcpg_cluster.page"
_DESCRIPTION_TAG = "mlflow.note.content"  # MLflow's own: shown as Markdown above the run
_BATCH = 100  # parameters of one call; what MLflow's stores take at least
_LONGEST = 500  # characters of a parameter that every MLflow store takes


class MlflowTracker:
    """See :class:`bcpg_cluster.watch.tracking.tracker.Tracker`. A resumed run is found again by a tag."""

    def __init__(self, run: TrackedRun) -> None:
        logging.getLogger("alembic").setLevel(logging.WARNING)
        uri = run.options.get("uri")
        if uri is None:
            folder = Path(run.folder) / "mlflow"
            folder.mkdir(parents=True, exist_ok=True)
            uri = f"sqlite:///{folder / 'mlflow.db'}"
        self._client = MlflowClient(tracking_uri=uri)
        experiment = self._experiment(run.options.get("experiment") or run.project)
        found = self._client.search_runs([experiment], f"tags.`{_ID_TAG}` = '{run.id}'")
        if found:
            self._run_id = found[0].info.run_id
            description = found[0].data.tags.get(_DESCRIPTION_TAG)
        else:
            self._run_id = self._client.create_run(experiment, tags={_ID_TAG: run.id}, run_name=run.name).info.run_id
            description = None
            params = [Param(_name(key), str(value)[:_LONGEST]) for key, value in _flat(run.config)]
            for start in range(0, len(params), _BATCH):
                self._client.log_batch(self._run_id, params=params[start : start + _BATCH])
        self._client.set_tag(self._run_id, _PAGE_TAG, run.page or run.page_command)
        if may_replace(description):
            self._client.set_tag(self._run_id, _DESCRIPTION_TAG, run.page_words)
        self._client.update_run(self._run_id, status="RUNNING")
        self.where = f"mlflow server --backend-store-uri {uri}" if uri.startswith("sqlite") else uri

    def _experiment(self, name: str) -> str:
        known = self._client.get_experiment_by_name(name)
        return known.experiment_id if known is not None else self._client.create_experiment(name)

    def log(self, axis: Axis, step: int, values: Mapping[str, float]) -> None:
        """One batch."""
        now = round(time.time() * 1000)
        self._client.log_batch(
            self._run_id, metrics=[Metric(_name(key), value, now, step) for key, value in values.items()]
        )

    def close(self) -> None:
        """Mark the run as finished (it may resume later)."""
        self._client.set_terminated(self._run_id)


def _name(key: str) -> str:
    """A name as MLflow allows it: ``llm+prm`` becomes ``llm_prm``."""
    return re.sub(r"[^\w\-. :/]", "_", key, flags=re.ASCII)


def _flat(content: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in content.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
