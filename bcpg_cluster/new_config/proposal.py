"""From the facts to a config that says of every choice why it was made. Pure."""

from __future__ import annotations

from typing import Any

from bcpg_cluster.new_config.commented_yaml import Why
from bcpg_cluster.new_config.facts import DataFacts, JudgeFacts, MachineFacts, ModelFacts
from bcpg_cluster.new_config.sizes import Members, Sizes, is_large

JUDGE = "judge"


def judge_pool(judge: JudgeFacts) -> str:
    """The pool the judge runs in."""
    return f"judge.{JUDGE}"


def propose(
    name: str,
    model: ModelFacts,
    data: DataFacts,
    verify: dict[str, Any],
    judge: JudgeFacts,
    sizes: Sizes,
    members: Members,
    machine: MachineFacts,
) -> dict[str, Any]:
    """The config as a tree, with comments."""
    on_gpus = machine.num_gpus > 0
    tree: dict[str, Any] = {"name": Why(name, f"the run lives in runs/{name}")}
    if members.placement == "colocated":
        tree["placement"] = Why("colocated", "pools take turns: there is no room for all of them at once")
    return tree | {
        "policy": {"model": model.name, "engine_args": _engine_args(sizes, on_gpus=on_gpus)},
        "prompts": _prompts(data, sizes),
        "generate": _generate(sizes, on_gpus=on_gpus),
        "verify": verify,
        "segment": {"min_tokens": Why(8, "shorter steps are merged with a neighbour"), "max_tokens": 160},
        "judges": {JUDGE: judge.section},
        "weigh": {"beta": Why(0.5, "weight of steps that the judges call right in wrong responses; 1 mines nothing")},
        "objective": {"name": "bcpg", "tau": 0.01},
        "train": _train(model, sizes, members, on_gpus=on_gpus),
        "push": _push(members, on_gpus=on_gpus),
        "evaluate": {
            "num_prompts": Why(
                sizes.num_measured, f"of {data.num_test} test problems, the same ones after every round"
            ),
            "num_samples": sizes.num_samples,
        },
        "pools": {pool: Why(_pool(pool, members, machine), _pool_comment(pool)) for pool in members.gib},
    }


def _engine_args(sizes: Sizes, *, on_gpus: bool) -> Why:
    rest = "" if on_gpus else "; `validate` prints the rest"
    return Why({"max_model_len": sizes.max_model_len}, f"vLLM's own options: tokens of prompt and response{rest}")


def _prompts(data: DataFacts, sizes: Sizes) -> dict[str, Any]:
    columns = {} if data.columns is None else {"columns": Why(data.columns, "which column holds what")}
    return {
        "train": data.train,
        "test": data.test,
        **data.more_keys,
        **columns,
        "per_round": Why(sizes.per_round, "problems in a round" + _of(data.num_train)),
    }


def _of(number: int) -> str:
    from bcpg_cluster.new_config.data import MOST_ROWS

    return "" if number >= MOST_ROWS else f", of {number} to train on"


def _generate(sizes: Sizes, *, on_gpus: bool) -> dict[str, Any]:
    fast = {"seed_per_request": Why(False, "vLLM's fast sampler takes no seeds of single requests")} if on_gpus else {}
    return {
        "group_size": Why(sizes.group_size, "responses to each problem"),
        "max_tokens": Why(sizes.max_tokens, "longest response; one that reaches it counts as truncated"),
        "prompts_per_shard": max(sizes.per_round // 8, 1),
        **fast,
    }


def _train(model: ModelFacts, sizes: Sizes, members: Members, *, on_gpus: bool) -> dict[str, Any]:
    rate = sizes.rate * (10 if members.is_lora else 1)
    section: dict[str, Any] = {
        "learning_rate": Why(rate, "a first guess; `bcpg-cluster compare` tunes it"),
        "min_learning_rate": float(f"{rate / 10:.2g}"),
        "batch_sequences": Why(sizes.batch_sequences, "responses in an optimiser step"),
        "micro_batch_tokens": Why(
            max(sizes.max_model_len, 16384 if on_gpus else 1024), "most tokens of a forward pass"
        ),
        "logprob_chunk_tokens": 1024 if on_gpus else 256,
        "checkpoint_every_steps": 20,
        "zero_stage": 3 if on_gpus and is_large(model) else 2,
        "dtype": Why("bfloat16" if on_gpus else "float32", "of trainer and rollout engines alike"),
        "gradient_checkpointing": Why(True, "less memory, more compute"),
    }
    if members.is_lora:
        section["lora"] = Why({"rank": 16, "alpha": 32}, "adapters: the whole model's training does not fit here")
    return section


def _push(members: Members, *, on_gpus: bool) -> dict[str, Any]:
    if not on_gpus:
        return {"backend": "gloo", "num_canaries": Why(4, "responses that prove the new weights arrived")}
    tolerance = {"tolerance_nats": Why(0.25, "two bfloat16 forwards of one model differ by hundredths of nats")}
    return {"backend": "disk" if members.placement == "colocated" else "nccl", "num_canaries": 8, **tolerance}


def _pool(pool: str, members: Members, machine: MachineFacts) -> dict[str, Any]:
    number, gpus = members.members.get(pool, 1), members.gpus.get(pool, 0)
    section: dict[str, Any] = {
        "members": number,
        **({"num_gpus": gpus} if gpus else {}),
        "memory_gib": members.gib[pool],
    }
    if not machine.num_gpus and pool != "cpu":
        section["env"] = {"OMP_NUM_THREADS": str(_threads(members, machine))}
    return section


def _threads(members: Members, machine: MachineFacts) -> int:
    return int(machine.num_cpus) if members.placement == "colocated" else max(int(machine.num_cpus) // 2, 1)


def _pool_comment(pool: str) -> str:
    return {
        "rollout": "vLLM with the policy (memory is an estimate, checked before a start)",
        "cpu": "rewards, steps, weights",
        "trainer": "DeepSpeed ranks; their number belongs to a run's identity",
    }.get(pool, "vLLM with the judge")
