"""From a configuration's sections to engines, judges, verifiers and segmenters: the only place that names implementations.

Called in the members' own processes. Heavy imports happen inside the functions.
"""

from __future__ import annotations

import os
from typing import Any

from bcpg_cluster.config.embedded import resolve_asset
from bcpg_cluster.config.run import Config
from bcpg_cluster.run.build.engine_defaults import engine_options
from bcpg_cluster.stages.generate.protocol import RolloutEngine
from bcpg_cluster.stages.graph import CPU_POOL, ROLLOUT_POOL
from bcpg_cluster.stages.push.arrivals import VerifySnapshot
from bcpg_cluster.stages.train.protocol import TrainerRank
from bcpg_cluster.stages.verify.protocol import Verifier


def make_rollout_engine(config: Config, policy_version: int, member: int) -> RolloutEngine:
    """The policy's engine, with the base model's weights, called ``policy_version``."""
    if config.policy.kind == "fake":
        from bcpg_cluster.stages.fakes.faults import slowed
        from bcpg_cluster.stages.fakes.generator import FakeGenerator

        model = config.policy.model
        output: Any = model.partition(":")[2] or None
        return FakeGenerator(
            model=model,
            policy_version=policy_version,
            max_model_len=config.policy.engine_args.get("max_model_len"),
            faults=slowed(output),
        )
    from bcpg_cluster.stages.generate.vllm_generator import VllmGenerator

    backend = None if config.push.backend == "disk" else config.push.backend
    # members with one seed would draw the same responses to unseeded requests
    engine_args = {"seed": config.seed * 1000 + member, **policy_engine_args(config)}
    return VllmGenerator(
        resolve_asset(config.policy.model),
        engine_args=engine_args,
        weight_transfer_backend=backend,
        policy_version=policy_version,
    )


def snapshot_verifier(trainer_kind: str) -> VerifySnapshot:
    """What reads a snapshot of this kind of trainer and compares it with digests."""
    if trainer_kind == "fake":
        from bcpg_cluster.stages.fakes.skill import verify_skill

        return verify_skill
    from bcpg_cluster.stages.push.snapshot import verify_snapshot

    return verify_snapshot


def policy_engine_args(config: Config) -> dict[str, Any]:
    """The policy's engines' options, by vLLM's names."""
    section = config.policy
    revision = (
        {} if section.revision is None else {"revision": section.revision, "tokenizer_revision": section.revision}
    )
    return {**revision, **engine_options(config, ROLLOUT_POOL), **trust_option(section.trust_remote_code)}


def trust_option(trusted: bool) -> dict[str, Any]:
    """What vLLM is told for running a model's own code; absent unless it is allowed."""
    return {"trust_remote_code": True} if trusted else {}


def make_verifier(config: Config) -> Verifier:
    """What checks final answers.

    Raises:
        ConfigError: this machine cannot isolate programs (``code``), or the function or class is not there.
    """
    section = config.verify
    if section.kind == "math":
        from bcpg_cluster.stages.verify.math_answer import MathVerifier

        return MathVerifier(section.time_limit_s, prompt_opens_thinking=section.prompt_opens_thinking)
    if section.kind == "code":
        from bcpg_cluster.stages.verify.code.limits import Limits
        from bcpg_cluster.stages.verify.code.verifier import CodeVerifier

        return CodeVerifier(
            Limits(
                cpu_s=section.cpu_limit_s,
                wall_s=section.wall_limit_s,
                idle_s=section.idle_limit_s,
                memory_gib=section.memory_gib,
            ),
            tolerance=section.tolerance,
            packages=section.packages,
            num_parallel=section.num_parallel,
            overdue_is_wrong=section.overdue_is_wrong,
            allow_unsandboxed=section.allow_unsandboxed,
            prompt_opens_thinking=section.prompt_opens_thinking,
        )
    if section.kind == "function":
        from bcpg_cluster.stages.verify.user_function import FunctionVerifier

        return FunctionVerifier(
            section.function or "",
            digest=section.function_digest,
            threshold=section.threshold,
            time_limit_s=section.time_limit_s,
            prompt_opens_thinking=section.prompt_opens_thinking,
        )
    if section.kind == "python":
        from bcpg_cluster.stages.verify.user_class import UserVerifier

        return UserVerifier(section.class_ or "", section.options, digest=section.class_digest)
    from bcpg_cluster.stages.verify.exact import ExactVerifier

    return ExactVerifier(section.answer_pattern, section.numeric)


def num_verifying_threads(config: Config) -> int:
    """How many answers of a shard are checked at once: programs side by side, anything else one by one."""
    if config.verify.kind != "code":
        return 1
    return config.verify.num_parallel or len(os.sched_getaffinity(0))


def verify_lease_s(config: Config) -> float:
    """How long a shard of programs may take where each uses up its limit; 0 where no programs are run.

    Programs of the largest shard, times the longer of the limits on processor and idle time, times the shards a member works
    on, over the programs that run at once. A program that passes case after case may take longer than one limit, one that
    fails ends; wall time beyond both limits is a busy machine's.
    """
    if config.verify.kind != "code":
        return 0.0
    shards = [config.generate.prompts_per_shard * config.generate.group_size]
    shards.append(config.evaluate.prompts_per_shard * (config.evaluate.num_samples + config.evaluate.greedy))
    longest_s = max(config.verify.cpu_limit_s, config.verify.idle_limit_s)
    pool = config.pool(CPU_POOL)
    num_at_once = config.verify.num_parallel or max(int(pool.cpus), 1)
    return max(shards) * longest_s * pool.leases_per_member / num_at_once


def sent_to_engines(config: Config) -> str:
    """The dtype that pushes send matrices in: the engines' own. float32 where they make something else of it themselves."""
    from bcpg_cluster.stages.push.wire import wire_dtype

    engine = config.engine_args(ROLLOUT_POOL)
    return "float32" if engine.get("quantization") else wire_dtype(engine.get("dtype"))


def make_trainer_rank(
    kind: str, timeout_s: float, wire_dtype: str, rank: int, world_size: int, host: str, port: int
) -> TrainerRank:
    """A rank of the trainer group that meets the others at ``host:port``."""
    if kind == "fake":
        from bcpg_cluster.stages.fakes.faults import slowed
        from bcpg_cluster.stages.fakes.trainer import FakeTrainerRank

        return FakeTrainerRank(faults=slowed())
    if kind == "torch":
        from bcpg_cluster.stages.train.torch_trainer import TorchTrainer

        return TorchTrainer(wire_dtype=wire_dtype)
    from bcpg_cluster.stages.train.deepspeed.trainer import DeepSpeedRank

    return DeepSpeedRank(rank, world_size, host, port, timeout_s=timeout_s, wire_dtype=wire_dtype)
