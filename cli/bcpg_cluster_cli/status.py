"""``bcpg-cluster status``: what a run has done, read from its manifest alone."""

from __future__ import annotations

import json
from typing import Any

import typer
from rich.console import Console
from rich.table import Table

from bcpg_cluster.run_path import RunPath
from bcpg_cluster.store.journal import lock_holder
from bcpg_cluster.store.layout import ray_namespace
from bcpg_cluster.store.manifest import ManifestState, read_manifest
from bcpg_cluster_cli.console import import_text, percent, points
from bcpg_cluster_cli.session import find_run


def run_status(run_dir: str | RunPath | None, *, as_json: bool) -> None:
    """Print a run's state; works while the run goes on."""
    directory = find_run(run_dir)
    facts = run_facts(directory, read_manifest(directory))
    if as_json:
        typer.echo(json.dumps(facts, indent=2))
        return
    console = Console()
    console.print(
        f"{directory}  {'running' if facts['is_running'] else 'not running'}  (ray namespace {facts['ray_namespace']})",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )
    for facts_of in facts["imports"]:
        console.print(f"round 1: {import_text(facts_of)}", highlight=False, markup=False, soft_wrap=True)
    table = Table(
        "round", "sampled", "greedy", "change sampled", "change greedy", "kept / asked", "mined", "push", "seconds"
    )
    for row in facts["rounds"]:
        samples, push = row.get("samples"), row.get("push")
        table.add_row(
            str(row["round"]),
            percent(row.get("accuracy"), row.get("stderr")),
            percent(row.get("accuracy_greedy"), row.get("stderr_greedy")),
            points(row.get("change", {}).get("accuracy")),
            points(row.get("change", {}).get("accuracy_greedy")),
            f"{samples['kept']} / {samples['asked']}" if samples else "-",
            percent(row.get("mined_share")),
            f"{push['method']}, {push['canaries']}" if push else "-",
            f"{row['seconds']['round']:.0f}",
        )
    console.print(table)
    for row in facts["in_progress"]:
        console.print(
            f"round {row['round']}  {row['table']}: {row['shards']} shards delivered, {row['state']}", highlight=False
        )
    if facts["num_retries"]:
        console.print(f"{facts['num_retries']} pieces of work were done again (see manifest.jsonl)", highlight=False)


def run_facts(directory: RunPath, state: ManifestState) -> dict[str, Any]:
    """The state as plain data: ``rounds`` (0 is the base policy) and what of an unfinished round is there."""
    unfinished = sorted(key for key in state.shards if key[0] not in state.reports)
    created = state.created or {}
    return {
        "run_dir": str(directory),
        "name": created.get("name"),
        "ray_namespace": ray_namespace(directory),
        "is_running": lock_holder(directory) is not None,
        "policy_version": max(state.snapshots, default=0),
        "rounds": [
            {key: value for key, value in report.items() if key != "per_problem"}
            for _, report in sorted(state.reports.items())
        ],
        "in_progress": [
            {
                "round": round_,
                "table": table,
                "shards": len(state.shards[round_, table]),
                "state": "sealed" if (round_, table) in state.sealed else "open",
            }
            for round_, table in unfinished
        ],
        "num_retries": len(state.retries),
        "imports": [
            {key: value for key, value in event.items() if key not in ("event", "time")} for event in state.imports
        ],
    }
