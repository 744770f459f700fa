"""How large a first round is, and what its members need of a machine. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from bcpg_cluster.errors import ConfigError
from bcpg_cluster.new_config.facts import DataFacts, MachineFacts, ModelFacts
from bcpg_cluster.run.build.model_memory import activation_bytes, training_state_bytes

_GIB = 2**30
_SMALL = 50_000_000  # parameters; below it a CPU makes thousands of tokens a second
_LARGE = 3_000_000_000
_MARGIN = 16  # tokens of the context that stay free
_LEAST_RESPONSE = 32


@dataclass(frozen=True, slots=True)
class Sizes:
    """Of a round.

    Attributes:
        max_model_len: of the policy's engines: the longest prompt, a response and a margin.
        rate: the learning rate's peak.
    """

    per_round: int
    group_size: int
    max_tokens: int
    max_model_len: int
    num_measured: int
    num_samples: int
    batch_sequences: int
    rate: float


@dataclass(frozen=True, slots=True)
class Members:
    """Where a run's pools live.

    Attributes:
        gib: host memory of a member, by pool.
        members, gpus: of a pool, where they are not 1 and 0.
    """

    placement: Literal["separate", "colocated"]
    gib: dict[str, float]
    members: dict[str, int]
    gpus: dict[str, int]
    is_lora: bool = False


def choose_sizes(model: ModelFacts, data: DataFacts, longest_prompt: int, num_gpus: int) -> Sizes:
    """A first round that ends in minutes.

    Raises:
        ConfigError: the longest prompt leaves no room for a response.
    """
    is_small = (model.num_parameters or _LARGE) < _SMALL
    per_round, group, response, measured, samples = (
        (256, 16, 4096, 200, 4) if num_gpus else (64, 8, 256, 64, 2) if is_small else (16, 4, 512, 16, 1)
    )
    context = model.context or longest_prompt + response + _MARGIN
    room = context - longest_prompt - _MARGIN
    if room < _LEAST_RESPONSE:
        raise ConfigError(
            f"the longest prompt has {longest_prompt} tokens, and {model.name} takes {context} of prompt and response together",
            rule=f"a response needs room: at least {_LEAST_RESPONSE} tokens",
            remedy="leave long problems out, or take a model with a longer context",
        )
    response = min(response, room)
    per_round = min(per_round, data.num_train)
    batch = max(min(per_round * group // 8, 128), 1)
    rate = 3e-4 if is_small else 1e-6
    longest = min(-(-(longest_prompt + response + _MARGIN) // 32) * 32, context)
    return Sizes(per_round, group, response, longest, min(measured, data.num_test), samples, batch, rate)


def choose_members(
    policy: ModelFacts, judge: ModelFacts | None, judge_pool: str, sizes: Sizes, machine: MachineFacts
) -> Members:
    """Pools beside each other where there is room, else in turns; adapters where the whole model's training has none.

    Raises:
        ConfigError: not even adapters fit into this machine's memory.
    """
    if machine.num_gpus:
        return _on_gpus(policy, judge, judge_pool, machine.num_gpus)
    free = machine.free_memory_gib
    for is_lora in (False, True):
        gib = {"rollout": engine_gib(policy), "cpu": 0.6, "trainer": trainer_gib(policy, sizes, is_lora=is_lora)}
        if judge is not None:
            gib[judge_pool] = engine_gib(judge)
        largest = max(size for pool, size in gib.items() if pool != "cpu") + gib["cpu"]
        if free is None or sum(gib.values()) <= 0.9 * free:
            return Members("separate", gib, {}, {}, is_lora)
        if largest <= 0.9 * free:
            return Members("colocated", gib, {}, {}, is_lora)
    raise ConfigError(
        f"{policy.name} needs about {largest:.1f} GiB at once even with adapters, this machine has {free:.1f} GiB free",
        rule="a run's largest turn fits into the machine's free memory",
        remedy="take a smaller model, end other programs, or use a cluster (--address)",
    )


def _on_gpus(policy: ModelFacts, judge: ModelFacts | None, judge_pool: str, num_gpus: int) -> Members:
    weights = 4 * (policy.num_parameters or 0) / _GIB
    gib = {"rollout": round(4 + weights, 1), "cpu": 2.0, "trainer": round(6 + 1.5 * weights, 1)}
    hosted = ["rollout", "trainer", *([judge_pool] if judge is not None else [])]
    if judge is not None:
        gib[judge_pool] = round(4 + 4 * (judge.num_parameters or 0) / _GIB, 1)
    if num_gpus < len(hosted):
        return Members("colocated", gib, dict.fromkeys(hosted, num_gpus), dict.fromkeys(hosted, 1))
    trainers = max(num_gpus // 2 - (judge is not None and num_gpus < 4), 1)
    members = dict.fromkeys(hosted, 1) | {"trainer": trainers, "rollout": num_gpus - trainers - (judge is not None)}
    return Members("separate", gib, members, dict.fromkeys(hosted, 1))


def engine_gib(model: ModelFacts) -> float:
    """Of a vLLM engine without a GPU: itself, its weights twice (a snapshot is read beside them), its cache."""
    weights = 4 * (model.num_parameters or 0) / _GIB
    return round(1.2 + 2 * weights + min(0.93, 0.1 + weights), 1)


def trainer_gib(model: ModelFacts, sizes: Sizes, *, is_lora: bool) -> float:
    """Of one DeepSpeed rank in float32, with activations computed again in the backward pass."""
    num = model.num_parameters or 0
    state = 4.0 * num if is_lora else training_state_bytes(num, zero_stage=2, num_ranks=1, dtype="float32")
    kept = 0.0
    if model.shape is not None:
        kept = activation_bytes(
            model.shape, sizes.max_model_len, dtype="float32", is_checkpointed=True, logprob_chunk_tokens=256
        )
    return round(0.8 + 1.3 * state / _GIB + 1.2 * kept / _GIB, 1)


def is_large(model: ModelFacts) -> bool:
    """Whether one GPU should not hold all of its training state."""
    return (model.num_parameters or 0) > _LARGE
