"""The Grafana dashboard, made from rows of panels. ``assets/bcpg_grafana_dashboard.json`` is what comes out of it.

A panel names metrics of the catalog; its queries follow from their kind and tags. Panels filter by run, and take the largest
value where the same run has left several series (a process that was started again is another series to Prometheus).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib import resources
from typing import Any

from bcpg_cluster.watch.prometheus.catalog import BY_NAME, RUN_TAG, Metric

UID = "bcpgCluster"
_WIDTH, _HEIGHT, _PER_ROW = 8, 7, 3  # of a panel, on Grafana's grid of 24 columns
_UNITS = {"1": "none", "seconds": "s", "bytes": "bytes"}


@dataclass(frozen=True, slots=True)
class Panel:
    """A graph. ``metrics`` are names without ``bcpg_``; ``share`` shows them as percentages."""

    title: str
    metrics: tuple[str, ...]
    share: bool = False


ROWS: dict[str, tuple[Panel, ...]] = {
    "Work": (
        Panel("Progress of the stages", ("stage_done", "stage_pieces")),
        Panel("Response tokens per second", ("tokens",)),
        Panel("Samples per second", ("samples",)),
        Panel("Shards per second, and what members spend on them", ("shards", "shard_seconds")),
        Panel("Faults, per second", ("faults",)),
        Panel("Store", ("store_bytes",)),
    ),
    "Pools": (
        Panel("Busy share", ("busy_share",), share=True),
        Panel("Queue", ("queue_depth",)),
        Panel("Leases", ("leases",)),
        Panel("Members by state", ("pool_members", "pool_size")),
        Panel("Policy version", ("policy_version", "round")),
        Panel("Last push", ("push_seconds",)),
    ),
    "Rewards and judges": (
        Panel("Reward and test accuracy", ("reward", "accuracy"), share=True),
        Panel("Mined share of the tokens of wrong responses", ("mined_share",), share=True),
        Panel("Mined share of the gradient mass of wrong responses", ("mined_gradient_share",), share=True),
        Panel("Uncertain tokens in right steps of wrong responses", ("uncertain_right_share",), share=True),
        Panel("Right steps of wrong responses", ("right_step_answers_share", "right_prefix_share"), share=True),
        Panel("Agreement of judges", ("judge_agreement", "judge_kappa")),
        Panel("Precision of judges by tokens", ("judge_precision",), share=True),
        Panel("Recall of judges by tokens", ("judge_recall",), share=True),
        Panel("Steps without a verdict, per second", ("steps_without_verdict",)),
    ),
    "Training": (
        Panel("Loss", ("loss",)),
        Panel("Delta per token", ("delta_per_token",)),
        Panel("Gradient norm", ("grad_norm",)),
        Panel("Entropy", ("entropy",)),
        Panel("Clipped tokens and positive mass", ("clipped_share", "positive_mass"), share=True),
        Panel("Learning rate", ("learning_rate",)),
        Panel("Steps", ("train_step", "train_steps")),
        Panel("Proof of the push", ("push_worst_nats", "push_separation_nats", "push_cached_prefix_nats")),
        Panel("Last round, and its bound", ("round_seconds", "round_took_seconds", "round_bound_seconds")),
        Panel("Busy share in the last round", ("round_busy_share",), share=True),
    ),
}


def query(metric: Metric) -> str:
    """A metric as a panel asks for it: the rate of a counter, the value of a gauge; a series for each run and tag."""
    tags = ", ".join((RUN_TAG, *metric.tags))
    chosen = f'{metric.series}{{{RUN_TAG}=~"$run", SessionName=~"$SessionName"}}'
    if metric.kind == "counter":
        return f"sum by ({tags}) (rate({chosen}[$__rate_interval]))"
    return f"max by ({tags}) ({chosen})"


def _target(metric: Metric, ref: str, *, several: bool) -> dict[str, Any]:
    words = [metric.name.removeprefix("bcpg_").replace("_", " ")] if several or not metric.tags else []
    legend = " ".join([*words, *(f"{{{{{tag}}}}}" for tag in metric.tags), f"({{{{{RUN_TAG}}}}})"])
    return {"expr": query(metric), "legendFormat": legend, "refId": ref, "datasource": _datasource()}


def _datasource() -> dict[str, str]:
    return {"type": "prometheus", "uid": "${datasource}"}


def _panel(panel: Panel, number: int, x: int, y: int) -> dict[str, Any]:
    metrics = [BY_NAME[f"bcpg_{name}"] for name in panel.metrics]
    units = {"percentunit" if panel.share else _UNITS.get(metric.unit, "none") for metric in metrics}
    rates = any(metric.kind == "counter" for metric in metrics)
    return {
        "id": number,
        "type": "timeseries",
        "title": panel.title,
        "description": "\n".join(f"{metric.series}: {metric.meaning}" for metric in metrics),
        "datasource": _datasource(),
        "gridPos": {"h": _HEIGHT, "w": _WIDTH, "x": x, "y": y},
        "fieldConfig": {"defaults": {"unit": "none" if rates or len(units) > 1 else units.pop()}, "overrides": []},
        "options": {"legend": {"displayMode": "table", "placement": "bottom", "calcs": ["lastNotNull"]}},
        "targets": [
            _target(metric, chr(ord("A") + index), several=len(metrics) > 1) for index, metric in enumerate(metrics)
        ],
    }


def _variable(name: str, label: str) -> dict[str, Any]:
    source = f"label_values({BY_NAME['bcpg_round'].series}, {name})"
    return {
        "name": name,
        "label": label,
        "type": "query",
        "datasource": _datasource(),
        "definition": source,
        "query": {"query": source, "refId": name},
        "refresh": 2,
        "sort": 2,
        "multi": True,
        "includeAll": True,
        "allValue": ".*",
        "current": {"selected": True, "text": ["All"], "value": ["$__all"]},
    }


def dashboard() -> dict[str, Any]:
    """The dashboard, as Grafana's provisioning takes it."""
    panels: list[dict[str, Any]] = []
    y = 0
    for title, row in ROWS.items():
        place = {"h": 1, "w": 24, "x": 0, "y": y}
        panels.append(
            {"id": len(panels) + 1, "type": "row", "title": title, "collapsed": False, "gridPos": place, "panels": []}
        )
        y += 1
        for index, panel in enumerate(row):
            column, line = index % _PER_ROW, index // _PER_ROW
            panels.append(_panel(panel, len(panels) + 1, column * _WIDTH, y + line * _HEIGHT))
        y += -(-len(row) // _PER_ROW) * _HEIGHT
    return {
        "uid": UID,
        "title": "bcpg-cluster",
        "tags": ["bcpg-cluster"],
        "schemaVersion": 38,
        "version": 1,
        "editable": True,
        "refresh": "10s",
        "time": {"from": "now-30m", "to": "now"},
        "templating": {
            "list": [
                {"name": "datasource", "label": "Source", "type": "datasource", "query": "prometheus", "refresh": 1},
                _variable("SessionName", "Ray session"),
                _variable(RUN_TAG, "Run"),
            ]
        },
        "panels": panels,
    }


def dashboard_text() -> str:
    """The dashboard as the asset holds it."""
    return json.dumps(dashboard(), indent=1) + "\n"


def shipped_dashboard() -> str:
    """The asset."""
    return (resources.files("bcpg_cluster") / "assets" / "bcpg_grafana_dashboard.json").read_text()
