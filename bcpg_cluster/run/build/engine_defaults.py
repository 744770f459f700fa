"""What engines and members get where a configuration says nothing. Derived here and nowhere else; what is said always wins.

``engine_options`` is what vLLM is given. Nothing derived enters the configuration or its identity, so a run resumes whatever
is added here. Why each option is needed: docs/decisions.md.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, Final

from bcpg_cluster.cluster.placement import ClusterNodes, added
from bcpg_cluster.cluster.turns import TRAINER
from bcpg_cluster.config.judges import JudgeConfig
from bcpg_cluster.config.run import Config
from bcpg_cluster.run.build.footprint import held_together
from bcpg_cluster.run.build.model_files import longest_context, model_shape
from bcpg_cluster.stages.graph import ROLLOUT_POOL

_PROMPT_TOKENS: Final = 2048  # room for a problem, or for a judge's instructions and the problem
_CONTEXT_STEP: Final = 256
_SEQUENCES: Final = 16  # whole contexts a derived KV cache holds, within these bytes:
_LEAST_CACHE, _MOST_CACHE = 64_000_000, 1_000_000_000
_BLOCK: Final = 32  # the CPU attention kernels take multiples of it
_MAX_NUM_SEQS: Final = 256  # what vLLM takes where nothing is said; more on the largest GPUs
_LEAST_SHARE = 0.01  # of a CPU; Ray counts in ten-thousandths


def engine_options(config: Config, pool: str) -> dict[str, Any]:
    """VLLM's options of the engines in a pool: ``engine_args`` over what is derived. Empty for a pool without vLLM."""
    return {**derived_options(config, pool), **config.engine_args(pool)}


def derived_options(config: Config, pool: str) -> dict[str, Any]:
    """The options that ``engine_args`` leave open and vLLM should not choose by itself.

    The policy computes in ``train.dtype`` everywhere, since a push is proven bit by bit. An engine without a GPU also gets an
    exact cache, a context that fits it, and no chunked prefill, which seeded requests die of there.
    """
    model = hosted_model(config, pool)
    if model is None:
        return {}
    said = config.engine_args(pool)
    derived: dict[str, Any] = {}
    if pool == ROLLOUT_POOL and config.train.kind != "fake":
        derived["dtype"] = config.train.dtype
    if not config.pool(pool).num_gpus:
        derived = {"dtype": "float32", **derived, **_on_cpus(config, pool, model, {**derived, **said})}
    return {name: value for name, value in derived.items() if name not in said}


def _on_cpus(config: Config, pool: str, model: str, said: Mapping[str, Any]) -> dict[str, Any]:
    options: dict[str, Any] = {"enforce_eager": True, "block_size": _BLOCK, "enable_chunked_prefill": False}
    context = said.get("max_model_len") or _context(config, pool, model, said)
    if context is not None:
        options["max_model_len"] = context
    if "gpu_memory_utilization" not in said:
        options["kv_cache_memory_bytes"] = _cache_bytes(model, context, said)
    return options


def _context(config: Config, pool: str, model: str, said: Mapping[str, Any]) -> int | None:
    """Room for the run's longest responses, at most what the model has; ``None`` leaves it to vLLM."""
    most = longest_context(model)
    if most is None:
        return None
    response = max(config.generate.max_tokens, config.evaluate.max_tokens or 0)
    judged = [judge.max_tokens + _PROMPT_TOKENS for judge in _llm_judges(config, pool)]
    wanted = _PROMPT_TOKENS + response + max(judged, default=0)
    wanted = -(-wanted // _CONTEXT_STEP) * _CONTEXT_STEP
    return min(wanted, most, int(said.get("max_num_batched_tokens") or most))


def _cache_bytes(model: str, context: int | None, said: Mapping[str, Any]) -> int:
    shape = model_shape(model)
    if shape is None or context is None:
        return _MOST_CACHE
    one = shape.kv_bytes(context + _BLOCK, 4 if said.get("dtype", "float32") == "float32" else 2)
    return max(one, min(max(_SEQUENCES * one, _LEAST_CACHE), _MOST_CACHE))


def hosted_model(config: Config, pool: str) -> str | None:
    """The model that vLLM serves in a pool; ``None`` for a pool without one."""
    if pool == ROLLOUT_POOL:
        return config.policy.model if config.policy.kind == "vllm" else None
    hosted = [judge for name, judge in config.judges.items() if config.judge_pool(name) == pool]
    return next((judge.model for judge in hosted if judge.kind in ("llm", "prm")), None)


def _llm_judges(config: Config, pool: str) -> list[JudgeConfig]:
    return [judge for name, judge in config.judges.items() if judge.kind == "llm" and config.judge_pool(name) == pool]


def with_member_cpus(config: Config, nodes: ClusterNodes) -> Config:
    """The configuration with ``num_cpus`` of every pool filled in: 1, or an equal share where the nodes have too few CPUs for
    all members that are there at once. A cluster that may still grow is asked for whole CPUs.
    """
    share = 1.0 if nodes.largest is None or nodes.largest else _share(config, added(nodes.there).get("CPU", 0.0))
    pools = {name: config.pool(name) for name in config.pool_names()}
    filled = {
        name: pool.model_copy(update={"num_cpus": share}) if pool.num_cpus is None else pool
        for name, pool in pools.items()
    }
    return config.model_copy(update={"pools": filled})


def _share(config: Config, num_cpus: float) -> float:
    pools = {name: config.pool(name) for name in config.pool_names()}
    shares = [1.0]
    for turn in held_together(config):
        silent = sum(_most_members(config, name) for name in turn if pools[name].num_cpus is None)
        said = sum(_most_members(config, name) * pools[name].cpus for name in turn if pools[name].num_cpus is not None)
        if silent:
            shares.append((num_cpus - said) / silent)
    return max(int(min(shares) * 100) / 100, _LEAST_SHARE)


def _most_members(config: Config, pool: str) -> int:
    settings = config.pool(pool)
    return settings.members if pool == TRAINER else settings.max or settings.members


def default_notes(config: Config) -> list[str]:
    """For people: what was derived for each pool on this machine, a line a pool; empty where the configuration says it all."""
    lines = []
    for pool in config.pool_names():
        derived = derived_options(config, pool)
        if derived:
            told = ", ".join(f"{name} {str(value).lower()}" for name, value in sorted(derived.items()))
            lines.append(f"engines of {pool}, where engine_args say nothing: {told}")
    machine = [{"CPU": float(os.cpu_count() or 1)}]
    share = with_member_cpus(config, ClusterNodes(machine, machine))
    silent = [name for name in config.pool_names() if config.pool(name).num_cpus is None]
    if silent and (each := share.pool(silent[0]).cpus) < 1:
        lines.append(
            f"num_cpus of a member on this machine, where its pool says nothing: {each:g} ({', '.join(silent)})"
        )
    return lines


def requests_at_once(config: Config, pool: str) -> int | None:
    """What the engine of a pool's member works on at the same time: vLLM's ``max_num_seqs``, or the open requests to endpoints.
    ``None`` for other pools, for judges that take one response after another or may do so (``engine: auto``), and for rollouts on
    CPUs: what shares a batch decides the last digits of their log-probs, and the batches there stay what they were.
    """
    if pool == ROLLOUT_POOL:
        is_on_gpus = config.policy.kind == "vllm" and config.pool(pool).num_gpus > 0
        return int(engine_options(config, pool).get("max_num_seqs") or _MAX_NUM_SEQS) if is_on_gpus else None
    judges = [judge for name, judge in config.judges.items() if config.judge_pool(name) == pool]
    to_endpoints = sum(judge.endpoint.concurrency for judge in judges if judge.endpoint is not None)
    if to_endpoints:
        return to_endpoints
    if not any(judge.kind == "llm" or (judge.kind == "prm" and judge.engine == "vllm") for judge in judges):
        return None
    return int(engine_options(config, pool).get("max_num_seqs") or _MAX_NUM_SEQS)
