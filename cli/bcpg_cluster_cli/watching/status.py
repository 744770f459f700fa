"""``bcpg-cluster status``: what a run has done, from its manifest, and what it does now, from its live status."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.live import Live
from rich.table import Table

from bcpg_cluster.store.faults import count_by_kind
from bcpg_cluster.store.journal import lock_holder
from bcpg_cluster.store.layout import ray_namespace
from bcpg_cluster.store.manifest import ManifestState, read_manifest
from bcpg_cluster.store.path import RunPath
from bcpg_cluster.store.reports import RoundReport
from bcpg_cluster.watch.live_status import is_alive, read_live
from bcpg_cluster.watch.report.round_bound import bound_text
from bcpg_cluster_cli.console import bound_words, busy_words, counts_text, import_text, percent, points
from bcpg_cluster_cli.session import find_run
from bcpg_cluster_cli.terminal import Terminal
from bcpg_cluster_cli.watching.live_view import WIDE, live_view


def run_status(run_dir: str | RunPath | None, *, watch: bool, as_json: bool) -> None:
    """Print a run's state, once or every second until it ends; works while the run is running."""
    directory = find_run(run_dir)
    if watch:
        _watch(directory, as_json=as_json)
        return
    if as_json:
        typer.echo(json.dumps(run_facts(directory, read_manifest(directory)), indent=2))
        return
    _print(Terminal(), directory)


def _print(console: Console, directory: RunPath) -> None:
    """All there is to say of a run, once."""
    state = read_manifest(directory)
    facts = run_facts(directory, state)
    console.print(str(directory), highlight=False, markup=False, soft_wrap=True)
    console.print(f"ray namespace {facts['ray_namespace']}", highlight=False)
    console.print(live_view(read_live(directory), facts["is_running"]))
    for facts_of in facts["imports"]:
        console.print(f"round 1: {import_text(facts_of)}", highlight=False, markup=False, soft_wrap=True)
    reports = [report for _, report in sorted(state.reports.items())]
    console.print(_rounds(reports) if console.width >= WIDE else _narrow_rounds(reports))
    for line in _last_bound(reports):
        console.print(line, highlight=False, markup=False)
    for row in facts["in_progress"]:
        console.print(
            f"round {row['round']}  {row['table']}: {row['shards']} shards delivered, {row['state']}", highlight=False
        )
    for version in sorted(set(state.pushes) - set(state.reports)):
        console.print(
            f"round {version}: its weights are pushed; it is measured while the next round trains", highlight=False
        )
    if facts["faults"]:
        counts = counts_text(facts["faults"])
        console.print(f"faults: {counts} (see `status --events`)", highlight=False)


def _rounds(reports: Sequence[RoundReport]) -> Table:
    table = Table(
        "round",
        "sampled",
        "greedy",
        "change sampled",
        "change greedy",
        "kept / asked",
        "mined",
        "of gradient",
        "push",
        "seconds",
        "bound",
    )
    for report in reports:
        samples, push = report.samples, report.push
        table.add_row(
            str(report.round),
            percent(report.accuracy, report.stderr),
            percent(report.accuracy_greedy, report.stderr_greedy),
            points(report.change.get("accuracy")),
            points(report.change.get("accuracy_greedy")),
            f"{samples.kept} / {samples.asked}" if samples else "-",
            percent(report.mined_share),
            percent(report.mined_gradient_share),
            f"{push.method}, {push.canaries}" if push else "-",
            f"{report.round_seconds:.0f}",
            _bound_cell(report),
        )
    return table


def _narrow_rounds(reports: Sequence[RoundReport]) -> Table:
    """What fits 80 columns. `--json`, and a wider terminal, have the rest."""
    table = Table(
        "round", "sampled", "change", "greedy", "kept / asked", "mined", "s", box=SIMPLE_HEAD, padding=(0, 1, 0, 0)
    )
    for report in reports:
        samples = report.samples
        table.add_row(
            str(report.round),
            percent(report.accuracy, report.stderr),
            points(report.change.get("accuracy")),
            percent(report.accuracy_greedy, report.stderr_greedy),
            f"{samples.kept} / {samples.asked}" if samples else "-",
            percent(report.mined_share),
            f"{report.round_seconds:.0f}",
        )
    return table


def _bound_cell(report: RoundReport) -> str:
    bound = report.bound
    return "-" if bound is None or bound.ratio is None else f"{bound.bound_s:.0f} (x {bound.ratio:.2f})"


def _last_bound(reports: Sequence[RoundReport]) -> list[str]:
    """Of the last round that has them: how its bound comes about, and how busy its pools were."""
    bound = [
        [f"round {r.round} {bound_words(r.bound)}", f"  = {bound_text(r.bound)}"]
        for r in reports
        if r.bound is not None
    ]
    busy = [f"  busy in round {r.round}: {busy_words(r.busy)}" for r in reports if r.busy]
    return [*(bound[-1] if bound else []), *busy[-1:]]


def _watch(directory: RunPath, *, as_json: bool) -> None:
    """Until the run ends, its process is gone, or Ctrl-C; then the whole state. As JSON: a line a second."""
    console = Terminal()
    with suppress(KeyboardInterrupt):
        _follow(console, directory, as_json=as_json)
    if not as_json:
        _print(console, directory)


def _follow(console: Console, directory: RunPath, *, as_json: bool) -> None:
    with Live(console=console, auto_refresh=False, transient=True) as screen:
        while True:
            is_running = is_alive(directory)
            live = read_live(directory)
            if as_json:
                typer.echo(json.dumps({"is_running": is_running, "live": None if live is None else live.plain()}))
            else:
                screen.update(live_view(live, is_running), refresh=True)
            if not is_running:
                return
            time.sleep(1.0)


def run_facts(directory: RunPath, state: ManifestState) -> dict[str, Any]:
    """The state as plain data: ``rounds`` (0 is the base policy) and what of an unfinished round is there."""
    unfinished = sorted(key for key in state.shards if key[0] not in state.reports)
    created = state.created or {}
    live = read_live(directory)
    return {
        "run_dir": str(directory),
        "name": created.get("name"),
        "ray_namespace": ray_namespace(directory),
        "is_running": lock_holder(directory) is not None or is_alive(directory),
        "live": None if live is None else live.plain(),
        "policy_version": max(state.snapshots, default=0),
        "rounds": [
            {key: value for key, value in report.plain().items() if key != "per_problem"}
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
        "faults": count_by_kind(state.faults),
        "imports": [
            {key: value for key, value in event.items() if key not in ("event", "time")} for event in state.imports
        ],
    }
