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
from bcpg_cluster.cluster.placement import table as placement_table
from bcpg_cluster.errors import HubError
from bcpg_cluster.run.build.costs import plan_facts
from bcpg_cluster.run.build.default_config import choose_config, place, read_config
from bcpg_cluster.run.preflight.prompts import read_all_prompts


def run_plan(rounds: int, source: str | None, overrides: Sequence[str], address: str | None, *, as_json: bool) -> None:
    """Print upper bounds: every response as long as ``max_tokens``, every group kept, every response wrong; what every GPU
    holds; and, with an address, whether that cluster has room for it.
    """
    console = Console(stderr=as_json)
    config = read_config(
        choose_config(source, address, partial(console.print, highlight=False)) if address else source, overrides, None
    )
    found = None
    if address:
        found = place(config, look_at(choose_cluster(address)))
    try:
        measured = read_all_prompts(config).measured(config.evaluate.num_prompts)
        num_test = sum(len(of_set) for of_set in measured.values())
    except HubError as error:  # a data set that lies elsewhere must not keep the plan of the machines back
        console.print(f"[yellow]the prompts cannot be read here, so evaluation counts as nothing: {error.problem}[/]")
        num_test = 0
    facts = plan_facts(config, rounds, num_test=num_test)
    if found is not None:
        facts["placement"] = {
            "verdict": found.verdict,
            "why": found.why,
            "lines": [asdict(line) for line in found.lines],
        }
    if as_json:
        typer.echo(json.dumps(facts, indent=2))
        return
    table = Table("what", "a round", f"{rounds} rounds", title="upper bounds", title_justify="left")
    for key, title in _TITLES.items():
        table.add_row(title, f"{facts['per_round'][key]:,.0f}", f"{facts['total'][key]:,.0f}")
    console.print(table)
    pools = Table("pool", "members", "memory each (GiB)", "GPUs each", "resources")
    for pool in facts["pools"]:
        pools.add_row(
            pool["name"],
            str(pool["members"]),
            f"{pool['memory_gib']:g}",
            f"{pool['num_gpus']:g}",
            str(pool["resources"]),
        )
    console.print(pools)
    console.print(
        f"memory of all members: {facts['memory_gib']:.1f} GiB; GPUs: {facts['num_gpus']:g}; disk: about "
        f"{facts['disk_mib']:,.0f} MiB for data and {facts['snapshots_mib']:,.0f} MiB for kept snapshots",
        highlight=False,
    )
    _print_gpu_memory(facts["gpu_memory"], console)
    if found is not None:
        console.print(f"placement: {found.verdict.replace('_', ' ')} {found.why}", highlight=False)
        console.print(placement_table(found.lines), highlight=False)


def _print_gpu_memory(rows: list[dict[str, Any]], console: Console) -> None:
    if not rows:
        return
    table = Table("pool", "model", "B params", "what one GPU holds (GiB)", "in all", title="GPU memory, estimated")
    for row in rows:
        if row["parts"] is None:
            table.add_row(row["pool"], row["model"], "?", "the model's config.json is not here", "?")
            continue
        parts = ", ".join(f"{what} {gib:.1f}" for what, gib in row["parts"].items())
        table.add_row(
            row["pool"], row["model"], f"{row['parameters'] / 1e9:.2f}", parts, f"{sum(row['parts'].values()):.1f}"
        )
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
