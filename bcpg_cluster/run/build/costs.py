"""Upper bounds of what a run costs: samples, judge calls, steps, memory, disk."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from bcpg_cluster.config.embedded import resolve_asset
from bcpg_cluster.config.run import Config
from bcpg_cluster.config.section import num_ranks
from bcpg_cluster.run.build.footprint import ask_of, held_together
from bcpg_cluster.run.build.model_memory import KNOWN, ModelShape, activation_bytes, shape_from, training_state_bytes

# Bytes a sample takes in the store for each response token (ids, log-probs, texts, weights, reference), before compression.
_BYTES_PER_TOKEN = 24


_STEP_TOKENS = 10  # a line of the embedded task; real responses are cut into longer steps, so this is an upper bound


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
    """What a GPU of a pool's member holds, in GiB by part; nothing for pools without GPUs. Formulas: ``run.build.model_memory``."""
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
