"""``bcpg-cluster plan``: what a run would cost, worked out from the config and the prompts. Starts nothing."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import typer
from rich.console import Console
from rich.table import Table

from bcpg_cluster.build import read_all_prompts
from bcpg_cluster.config import Config, resolve_asset
from bcpg_cluster_cli.session import read_config

# Bytes a sample takes in the store for each response token (ids, log-probs, texts, weights, reference), before compression.
_BYTES_PER_TOKEN = 24
_STEP_TOKENS = 10  # a line of the embedded task; real responses are cut into longer steps, so this is an upper bound


def run_plan(rounds: int, source: str | None, overrides: Sequence[str], *, as_json: bool) -> None:
    """Print upper bounds: every response as long as ``max_tokens``, every group kept, every response wrong."""
    config = read_config(source, overrides, None)
    measured = read_all_prompts(config).measured(config.evaluate.num_prompts)
    facts = plan_facts(config, rounds, num_test=sum(len(of_set) for of_set in measured.values()))
    if as_json:
        typer.echo(json.dumps(facts, indent=2))
        return
    table = Table("what", "a round", f"{rounds} rounds", title="upper bounds", title_justify="left")
    for key, title in _TITLES.items():
        table.add_row(title, f"{facts['per_round'][key]:,.0f}", f"{facts['total'][key]:,.0f}")
    console = Console()
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


_TITLES = {
    "prompts": "prompts",
    "samples": "samples drawn for training",
    "tokens": "tokens drawn for training",
    "evaluation_samples": "samples drawn for evaluation",
    "judge_calls": "judge calls (all judges)",
    "optimiser_steps": "optimiser steps",
    "trained_tokens": "tokens trained on",
}


def plan_facts(config: Config, rounds: int, num_test: int) -> dict[str, Any]:
    """The numbers as plain data."""
    sample = config.generate
    prompts = config.prompts.per_round
    samples = prompts * sample.group_size
    tokens = samples * sample.max_tokens
    steps_each = max(sample.max_tokens // _STEP_TOKENS, 1)
    calls = {"llm": {"full": 1, "causal": steps_each}}
    judge_calls = sum(
        samples * (calls["llm"][judge.view] if judge.kind == "llm" else 1) for judge in config.judges.values()
    )
    per_round = {
        "prompts": prompts,
        "samples": samples,
        "tokens": tokens,
        "evaluation_samples": num_test * (config.evaluate.num_samples + config.evaluate.greedy),
        "judge_calls": judge_calls,
        "optimiser_steps": -(-samples // config.train.batch_sequences) * config.train.epochs,
        "trained_tokens": tokens * config.train.epochs,
    }
    total = {key: value * rounds for key, value in per_round.items()}
    total["evaluation_samples"] += per_round["evaluation_samples"]  # the base policy is measured too
    pools: list[dict[str, Any]] = [
        {
            "name": name,
            "members": config.pool(name).members,
            "memory_gib": config.pool(name).memory_gib,
            "num_gpus": config.pool(name).num_gpus,
            "resources": config.pool(name).resources,
        }
        for name in config.pool_names()
    ]
    weights = model_bytes(config.policy.model)
    kept = min(rounds, config.snapshots.keep_last + 1)
    return {
        "per_round": per_round,
        "total": total,
        "pools": pools,
        "memory_gib": sum(pool["members"] * pool["memory_gib"] for pool in pools),
        "num_gpus": sum(pool["members"] * pool["num_gpus"] for pool in pools),
        "disk_mib": total["tokens"] * _BYTES_PER_TOKEN / 2**20,
        "snapshots_mib": (weights or 0) * kept / 2**20,
    }


def model_bytes(model: str) -> int | None:
    """Bytes of a local model's weights; ``None`` for one that is not here."""
    folder = Path(resolve_asset(model))
    if not folder.is_dir():
        return None
    return sum(path.stat().st_size for path in folder.glob("*.safetensors"))
