"""The members of a run: pools, the trainer group, and the weights they serve."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from bcpg_cluster.cluster.gang import Gang
from bcpg_cluster.cluster.leases import PoolLimits
from bcpg_cluster.cluster.pool import Pool
from bcpg_cluster.cluster.runtime import MemberSpec, Runtime
from bcpg_cluster.cluster.turns import TRAINER, Turns
from bcpg_cluster.config.embedded import resolve_asset
from bcpg_cluster.config.pools import PoolConfig
from bcpg_cluster.config.run import Config
from bcpg_cluster.errors import Interrupted
from bcpg_cluster.run.build.engines import verify_lease_s
from bcpg_cluster.run.build.footprint import member_group
from bcpg_cluster.run.build.members import host_cpu, host_judges, host_rollout, host_trainer
from bcpg_cluster.run.scaler import PoolBounds
from bcpg_cluster.run.serving import CatchUp, Serving
from bcpg_cluster.stages.generate.vllm_options import ACTOR_ENVIRONMENT
from bcpg_cluster.stages.graph import ROLLOUT_POOL


class Workforce:
    """The members that work: pools, the trainer group, and which weights are served. They may serve several runs in turn, of
    configurations that differ in nothing a member is made from: seed, prompts, objective, learning rates, judges' roles and
    thresholds, and how verdicts are weighed come with the jobs.

    Attributes:
        on_retry: told of every lost lease or member; the run that is served now.
        on_wait: likewise, told when nodes are waited for.
        tend: called while the run waits for its members, the trainers among them; likewise of the run that is served now.
    """

    def __init__(self, pools: Mapping[str, Pool], gang: Gang, turns: Turns, serving: Serving) -> None:
        self.pools, self.gang, self.turns, self.serving = pools, gang, turns, serving
        self.on_retry: Callable[[str, str], None] = lambda what, why: None
        self.on_wait: Callable[[str], None] = lambda what: None
        self.tend: Callable[[], None] = lambda: None


def start_workforce(
    config: Config,
    runtime: Runtime,
    stop_asked: Callable[[], bool],
    serving: Serving | None = None,
) -> Workforce:
    """Start all pools; the trainer group starts when it is first needed, and so do all pools that take turns.

    Args:
        serving: the weights rollout members start with; the base model by default.
    """
    serving = serving or Serving(0, resolve_asset(config.policy.model))
    content = config.model_dump(mode="json")
    base = resolve_asset(config.policy.model)

    def rollout_arguments(member: int) -> dict[str, Any]:
        snapshot = None if serving.path == base else serving.path
        return {"config": content, "policy_version": serving.version, "snapshot": snapshot, "member": member}

    trainer = config.pool("trainer")
    pools: dict[str, Pool] = {}

    def between_waits() -> None:
        _raise_if_stopped(stop_asked)
        workforce.tend()

    gang = Gang(
        "trainer",
        runtime,
        partial(_trainer_spec, config, content),
        trainer.members,
        start_timeout_s=trainer.start_timeout_s,
        placement_timeout_s=trainer.placement_timeout_s,
        on_wait=lambda what: workforce.on_wait(what),
        check_stop=between_waits,
    )
    for name in config.pool_names():
        if name == "trainer":
            continue
        factory, arguments = _member(name, content, rollout_arguments)
        settings = config.pool(name)
        pools[name] = Pool(
            name,
            runtime,
            partial(_spec, config, name, factory, arguments),
            PoolLimits(
                settings.leases_per_member,
                max(settings.lease_timeout_s, verify_lease_s(config) if name == "cpu" else 0.0),
                settings.start_timeout_s,
                settings.max_attempts,
                settings.placement_timeout_s,
            ),
            on_retry=lambda what, why: workforce.on_retry(what, why),
            welcome=CatchUp(lambda: (serving.version, serving.path), base) if name == ROLLOUT_POOL else None,
        )
    is_colocated = config.placement == "colocated"
    sleepers = [name for name in pools if config.pool(name).when_idle == "sleep"]
    workforce = Workforce(pools, gang, Turns(pools, gang, is_colocated=is_colocated, sleepers=sleepers), serving)
    for name, pool in pools.items():
        pool.resize(config.pool(name).members)
    return workforce


def pool_bounds(settings: PoolConfig) -> PoolBounds:
    """Between which sizes a pool may be resized, and by what."""
    needs = {"CPU": settings.num_cpus, "GPU": settings.num_gpus, **settings.resources}
    return PoolBounds(
        settings.min or settings.members,
        settings.max or settings.members,
        {name: amount for name, amount in needs.items() if amount},
        settings.target_queue_per_actor,
        settings.scale_down_after_s,
    )


def _member(
    pool: str, content: Mapping[str, Any], rollout_arguments: Callable[[int], dict[str, Any]]
) -> tuple[Callable[..., Any], Callable[[int], dict[str, Any]]]:
    if pool == "rollout":
        return host_rollout, rollout_arguments
    if pool == "cpu":
        return host_cpu, lambda member: {"config": content}
    return host_judges, lambda member: {"config": content, "pool": pool}


def _spec(
    config: Config,
    pool: str,
    factory: Callable[..., Any],
    arguments: Callable[[int], dict[str, Any]],
    member: int,
) -> MemberSpec:
    settings, name = config.pool(pool), f"{pool}/{member}"
    has_ray_workers = config.engine_args(pool).get("distributed_executor_backend") == "ray"
    return MemberSpec(
        name=name,
        factory=factory,
        arguments=arguments(member),
        work_threads=settings.leases_per_member,
        num_cpus=settings.num_cpus,
        num_gpus=0.0 if has_ray_workers else settings.num_gpus,  # those take the GPUs of the member's group themselves
        resources=settings.resources,
        env={**_member_environment(), **settings.env},
        group=member_group(config, pool, name),
    )


def _trainer_spec(config: Config, content: Mapping[str, Any], group: int, rank: int) -> MemberSpec:
    settings = config.pool(TRAINER)
    suffix = "" if group == 0 else f".{group}"  # a re-made group cannot reuse names that Ray still holds
    return MemberSpec(
        name=f"trainer/{rank}{suffix}",
        factory=host_trainer,
        arguments={"config": content, "rank": rank, "world_size": settings.members},
        work_threads=1,
        num_cpus=settings.num_cpus,
        num_gpus=settings.num_gpus,
        resources=settings.resources,
        env={**_member_environment(), **settings.env},
        group=member_group(config, TRAINER, f"{TRAINER}{suffix}"),
        bundle=rank,
    )


def _member_environment() -> dict[str, str]:
    """What every member needs before it imports anything heavy (measured reasons: docs/decisions.md)."""
    quiet = {"VLLM_LOGGING_LEVEL": "WARNING", "TOKENIZERS_PARALLELISM": "false"}
    return {**ACTOR_ENVIRONMENT, **quiet, "PATH": os.environ.get("PATH", "")}


def _raise_if_stopped(stop_asked: Callable[[], bool]) -> None:
    if stop_asked():
        raise Interrupted("stopped in training; it goes on from its last step checkpoint")
