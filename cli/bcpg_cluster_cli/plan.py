"""``bcpg-cluster plan``: what a run would cost, worked out from the config and the prompts. Starts nothing."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import typer
from rich.console import Console
from rich.table import Table

from bcpg_cluster.build import read_all_prompts
from bcpg_cluster.cluster.placement import table as placement_table
from bcpg_cluster.cluster.ray_runtime import choose_cluster, look_at
from bcpg_cluster.config import Config, num_ranks, resolve_asset
from bcpg_cluster.errors import HubError
from bcpg_cluster.footprint import ask_of, held_together
from bcpg_cluster.model_memory import KNOWN, ModelShape, activation_bytes, shape_from, training_state_bytes
from bcpg_cluster_cli.session import choose_config, place, read_config

# Bytes a sample takes in the store for each response token (ids, log-probs, texts, weights, reference), before compression.
_BYTES_PER_TOKEN = 24
_STEP_TOKENS = 10  # a line of the embedded task; real responses are cut into longer steps, so this is an upper bound


def run_plan(rounds: int, source: str | None, overrides: Sequence[str], address: str | None, *, as_json: bool) -> None:
    """Print upper bounds: every response as long as ``max_tokens``, every group kept, every response wrong; what every GPU
    holds; and, with an address, whether that cluster has room for it.
    """
    console = Console(stderr=as_json)
    config = read_config(choose_config(source, address, console) if address else source, overrides, None)
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
        "gpu_memory": [row for name in config.pool_names() for row in gpu_memory(config, name)],
        "memory_gib": memory_gib(config),
        "num_gpus": max(
            sum(ask_of(config, name).total().get("GPU", 0.0) for name in turn) for turn in held_together(config)
        ),
        "disk_mib": total["tokens"] * _BYTES_PER_TOKEN / 2**20,
        "snapshots_mib": (weights or 0) * kept / 2**20,
    }


def memory_gib(config: Config) -> float:
    """Memory of all members that are there at once."""
    pools = {name: config.pool(name) for name in config.pool_names()}
    return max(sum(pools[n].members * pools[n].memory_gib for n in turn) for turn in held_together(config))


def gpu_memory(config: Config, pool: str) -> list[dict[str, Any]]:
    """What a GPU of a pool's member holds, in GiB by part; nothing for pools without GPUs. Formulas: ``model_memory``."""
    settings = config.pool(pool)
    if not settings.num_gpus:
        return []
    args = config.engine_args(pool)
    model = config.policy.model
    if pool not in ("rollout", "trainer"):
        model = next(judge.model or "" for name, judge in config.judges.items() if config.judge_pool(name) == pool)
    shape = model_shape(model)
    row = {"pool": pool, "model": model, "parameters": None, "parts": None}
    if shape is None:
        return [row]
    number = shape.num_parameters()
    if pool == "trainer":
        train = config.train
        state = training_state_bytes(number, zero_stage=train.zero_stage, num_ranks=settings.members, dtype=train.dtype)
        kept = activation_bytes(
            shape, train.micro_batch_tokens, dtype=train.dtype, is_checkpointed=train.gradient_checkpointing,
            logprob_chunk_tokens=train.logprob_chunk_tokens,
        )  # fmt: skip
        parts = {"weights, gradients, optimiser": state / 2**30, "activations": kept / 2**30}
    else:
        item = 4 if args.get("dtype") == "float32" else 2
        ranks = num_ranks(args)
        longest = int(args.get("max_model_len") or 0)
        parts = {"weights": number * item / ranks / 2**30}
        if longest:
            parts[f"KV cache of one sequence of {longest:,} tokens"] = shape.kv_bytes(longest, item) / ranks / 2**30
    return [row | {"parameters": number, "parts": parts}]


def model_shape(model: str) -> ModelShape | None:
    """A model's shape, from its directory or the list of known ones; ``None`` when neither has it."""
    path = Path(resolve_asset(model)) / "config.json"
    if path.is_file():
        return shape_from(json.loads(path.read_text()))
    return KNOWN.get(model)


def model_bytes(model: str) -> int | None:
    """Bytes of a local model's weights; ``None`` for one that is not here."""
    folder = Path(resolve_asset(model))
    if not folder.is_dir():
        return None
    return sum(path.stat().st_size for path in folder.glob("*.safetensors"))
