"""``bcpg-cluster plan``: what a run would cost, worked out from the config and the prompts. Starts nothing."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

import typer
from rich.console import Console
from rich.table import Table

from bcpg_cluster.cluster.on_ray.runtime import choose_cluster, look_at
from bcpg_cluster.cluster.placement import Plan
from bcpg_cluster.cluster.placement import table as placement_table
from bcpg_cluster.errors import HubError
from bcpg_cluster.run.build.costs import CascadeFacts, GpuMemory, PlanFacts, cascade_facts, judge_calls, plan_facts
from bcpg_cluster.run.build.default_config import choose_config, place, read_config
from bcpg_cluster.run.preflight.prompts import read_all_prompts
from bcpg_cluster.store.manifest import read_manifest
from bcpg_cluster_cli.session import new_run
from bcpg_cluster_cli.terminal import Terminal


def run_plan(rounds: int, source: str | None, overrides: Sequence[str], address: str | None, *, as_json: bool) -> None:
    """Print upper bounds: every response as long as ``max_tokens``, every group kept, all its responses wrong but one; what
    every GPU holds; and, with an address, whether that cluster has room for it.
    """
    console = Terminal(stderr=as_json)
    config = read_config(
        choose_config(source, address, partial(console.print, highlight=False)) if address else source, overrides, None
    )
    found = place(config, look_at(choose_cluster(address))) if address else None
    try:
        measured = read_all_prompts(config).measured(config.evaluate.num_prompts)
        num_test = sum(len(of_set) for of_set in measured.values())
    except HubError as error:  # a data set that lies elsewhere must not keep the plan of the machines back
        console.print(f"[yellow]the prompts cannot be read here, so evaluation counts as nothing: {error.problem}[/]")
        num_test = 0
    facts = plan_facts(config, rounds, num_test=num_test)
    run_dir = new_run(None, config)
    cascades = cascade_facts(config, read_manifest(run_dir).reports if config.judged_after and run_dir.is_dir() else {})
    if as_json:
        told = {"cascades": [asdict(each) for each in cascades]} if cascades else {}
        typer.echo(json.dumps(asdict(facts) | told | _placement(found), indent=2))
        return
    _print_work(facts, rounds, console)
    by_judge = ", ".join(f"{name} {number:,}" for name, number in judge_calls(config).items())
    console.print(f"judge calls of a round at most, a step being one token: {by_judge}", highlight=False, markup=False)
    for each in cascades:
        console.print(_cascade_text(each), highlight=False, markup=False)
    _print_machines(facts, console)
    _print_gpu_memory(facts.gpu_memory, console)
    if found is not None:
        console.print(f"placement: {found.verdict.replace('_', ' ')} {found.why}", highlight=False)
        console.print(placement_table(found.lines), highlight=False)


def _cascade_text(cascade: CascadeFacts) -> str:
    text = f"{cascade.judge} is asked only where {' and '.join(cascade.after)} leave a step open"
    if cascade.saved_share is None:
        return (
            f"{text}: how many of these calls that saves, a judged round says (`iterate --dry-run` tries two problems)"
        )
    return f"{text}: estimated by round {cascade.round} of this run, {cascade.saved_share:.0%} of these calls are not needed"


def _placement(found: Plan | None) -> dict[str, Any]:
    if found is None:
        return {}
    lines = [asdict(line) for line in found.lines]
    return {"placement": {"verdict": found.verdict, "why": found.why, "lines": lines}}


def _print_work(facts: PlanFacts, rounds: int, console: Console) -> None:
    table = Table("what", "a round", f"{rounds} rounds", title="upper bounds", title_justify="left")
    per_round, total = asdict(facts.per_round), asdict(facts.total)
    for key, title in _TITLES.items():
        table.add_row(title, f"{per_round[key]:,.0f}", f"{total[key]:,.0f}")
    console.print(table)


def _print_machines(facts: PlanFacts, console: Console) -> None:
    table = Table("pool", "members", "memory each (GiB)", "GPUs each", "resources")
    for pool in facts.pools:
        table.add_row(
            pool.name, str(pool.members), f"{pool.memory_gib:g}", f"{pool.num_gpus:g}", str(pool.resources)
        )  # fmt: skip
    console.print(table)
    console.print(
        f"memory of all members: {facts.memory_gib:.1f} GiB; GPUs: {facts.num_gpus:g}; disk: about "
        f"{facts.disk_mib:,.0f} MiB for data and {facts.snapshots_mib:,.0f} MiB for kept snapshots",
        highlight=False,
    )


def _print_gpu_memory(rows: Sequence[GpuMemory], console: Console) -> None:
    if not rows:
        return
    table = Table("pool", "model", "B params", "what one GPU holds (GiB)", "in all", title="GPU memory, estimated")
    for row in rows:
        if row.parameters is None or row.parts is None:
            table.add_row(row.pool, row.model, "?", "the model's config.json is not here", "?")
            continue
        parts = ", ".join(f"{what} {gib:.1f}" for what, gib in row.parts.items())
        table.add_row(row.pool, row.model, f"{row.parameters / 1e9:.2f}", parts, f"{sum(row.parts.values()):.1f}")
    console.print(table)
    console.print(
        "on top: CUDA, communication buffers, fragmentation; vLLM gives what is left to the KV cache", highlight=False
    )


_TITLES = {
    "prompts": "prompts",
    "samples": "samples drawn for training",
    "tokens": "tokens drawn for training",
    "evaluation_samples": "samples drawn for evaluation",
    "judge_calls": "judge calls (all judges)",
    "optimiser_steps": "optimiser steps",
    "trained_tokens": "tokens trained on",
}
