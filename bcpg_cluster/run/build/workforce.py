"""The members of a run: pools, the trainer group, and the weights they serve."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from bcpg_cluster.cluster.gang import Gang
from bcpg_cluster.cluster.leases import InFlight, PoolLimits
from bcpg_cluster.cluster.liveness.rank_watch import ProgressLimits, ProgressWatch
from bcpg_cluster.cluster.pool import Pool
from bcpg_cluster.cluster.runtime import MemberSpec, Runtime
from bcpg_cluster.cluster.turns import TRAINER, Turns
from bcpg_cluster.config.embedded import resolve_asset
from bcpg_cluster.config.pools import PoolConfig
from bcpg_cluster.config.run import Config
from bcpg_cluster.errors import Interrupted
from bcpg_cluster.run.build.engine_defaults import engine_options, requests_at_once
from bcpg_cluster.run.build.engines import verify_lease_s
from bcpg_cluster.run.build.footprint import member_group
from bcpg_cluster.run.build.members import host_cpu, host_judges, host_rollout, host_trainer
from bcpg_cluster.run.build.plugins import with_absolute_plugins
from bcpg_cluster.run.scaler import PoolBounds
from bcpg_cluster.run.serving import CatchUp, Serving, Weights
from bcpg_cluster.stages.generate.vllm_options import engine_environment
from bcpg_cluster.stages.graph import CPU_POOL, ROLLOUT_POOL
from bcpg_cluster.store.faults import FaultEvent

QUIET: Final[Mapping[str, str]] = {
    "VLLM_LOGGING_LEVEL": "WARNING",
    "VLLM_LOGGING_STREAM": "ext://sys.stderr",
    "TOKENIZERS_PARALLELISM": "false",
}
"""What keeps vendors from printing among a command's own lines."""


@dataclass(frozen=True, slots=True)
class RunHooks:
    """What a run wants to be told of its members while they serve it.

    Attributes:
        on_fault: of every lost lease or member.
        on_wait: that nodes are waited for.
        tend: called about once a second while the run waits for members, the trainers among them.
    """

    on_fault: Callable[[FaultEvent], object]
    on_wait: Callable[[str], None]
    tend: Callable[[], None]


class ServedRun:
    """The run that the members serve now. Pools and the gang speak to it; between two runs it is silent."""

    def __init__(self, stop_asked: Callable[[], bool]) -> None:
        self._stop_asked = stop_asked
        self._driver = threading.get_ident()
        self.hooks: RunHooks | None = None
        self.is_training_given_up = False

    def serve(self, hooks: RunHooks | None) -> None:
        """From now on speak to this run, or to none. The pools belong to the thread that calls this."""
        self.hooks, self._driver = hooks, threading.get_ident()

    def fault(self, fault: FaultEvent) -> None:
        """Something was lost and dealt with."""
        if self.hooks is not None:
            self.hooks.on_fault(fault)

    def wait(self, what: str) -> None:
        """Nodes are waited for."""
        if self.hooks is not None:
            self.hooks.on_wait(what)

    def between_waits(self) -> None:
        """Called while the trainers are waited for, perhaps in a thread of their own; the pools are tended by their thread alone.

        Raises:
            Interrupted: a stop was asked for.
        """
        if self._stop_asked() or self.is_training_given_up:
            raise Interrupted("stopped in training; it resumes from its last step checkpoint")
        if threading.get_ident() == self._driver:
            self.tend()

    def tend(self) -> None:
        """Have the pools tended, by their thread."""
        if self.hooks is not None:
            self.hooks.tend()


class Workforce:
    """The members that work: pools, the trainer group, and which weights are served. They may serve several runs in turn, of
    configurations that differ in nothing a member is made from: seed, prompts, objective, learning rates, judges' roles and
    thresholds, and how verdicts are weighed come with the jobs.
    """

    def __init__(
        self, pools: Mapping[str, Pool], gang: Gang, turns: Turns, serving: Serving, served_run: ServedRun
    ) -> None:
        self.pools, self.gang, self.turns, self.serving = pools, gang, turns, serving
        self._served_run = served_run

    def serve(self, hooks: RunHooks | None) -> None:
        """From now on tell this run of its members, and no other; ``None`` between two runs."""
        self._served_run.serve(hooks)

    def tend(self) -> None:
        """What a driver does about once a second while it waits for a training in another thread."""
        self._served_run.tend()

    @contextmanager
    def without_training(self) -> Iterator[None]:
        """Have a training under way in another thread end soon, as if a stop had been asked for; inside, wait for it."""
        self._served_run.is_training_given_up = True
        try:
            yield
        finally:
            self._served_run.is_training_given_up = False


def start_workforce(
    config: Config,
    runtime: Runtime,
    stop_asked: Callable[[], bool],
    weights: Weights | None = None,
) -> Workforce:
    """Make pools and trainer group. Each starts its members when it is first needed.

    Args:
        weights: what rollout members start with; the base model by default.
    """
    base = resolve_asset(config.policy.model)
    serving = Serving(weights or Weights(0, base))
    served_run = ServedRun(stop_asked)
    content = with_absolute_plugins(config).model_dump(mode="json")
    trainer = config.pool(TRAINER)
    gang = Gang(
        TRAINER,
        runtime,
        partial(_trainer_spec, config, content),
        trainer.members,
        start_timeout_s=trainer.start_timeout_s,
        placement_timeout_s=trainer.placement_timeout_s,
        on_wait=served_run.wait,
        check_stop=served_run.between_waits,
        watch=ProgressWatch(ProgressLimits(config.train.progress_timeout_s, config.train.heartbeat_timeout_s)),
    )
    pools = {
        name: Pool(
            name,
            runtime,
            partial(_spec, config, name, _host(name, content, serving, base)),
            _limits(config, name),
            on_fault=served_run.fault,
            welcome=CatchUp(serving, base) if name == ROLLOUT_POOL else None,
        )
        for name in config.pool_names()
        if name != TRAINER
    }
    sleepers = [name for name in pools if config.pool(name).when_idle == "sleep"]
    turns = Turns(pools, gang, is_colocated=config.placement == "colocated", sleepers=sleepers)
    for name, pool in pools.items():
        pool.resize(config.pool(name).members)
    return Workforce(pools, gang, turns, serving, served_run)


def _limits(config: Config, pool: str) -> PoolLimits:
    settings = config.pool(pool)
    return PoolLimits(
        settings.leases_per_member,
        max(settings.lease_timeout_s, verify_lease_s(config)) if pool == CPU_POOL else settings.lease_timeout_s,
        settings.start_timeout_s,
        settings.max_attempts,
        settings.placement_timeout_s,
        settings.silence_timeout_s,
        in_flight(config, pool),
    )


def in_flight(config: Config, pool: str) -> InFlight | None:
    """By what a member's leases follow its engine's queue; ``None`` for pools whose members hold a fixed number."""
    at_once = requests_at_once(config, pool)
    if at_once is None:
        return None
    drawn = config.generate.prompts_per_shard * config.generate.group_size if pool == ROLLOUT_POOL else None
    return InFlight(at_once, config.pool(pool).max_leases_per_member, drawn)


def most_leases(config: Config, pool: str) -> int:
    """The most leases that a member of a pool ever holds, each in a thread of its own."""
    follows, least = in_flight(config, pool), config.pool(pool).leases_per_member
    return least if follows is None else max(least, follows.most_leases)


def pool_bounds(settings: PoolConfig) -> PoolBounds:
    """Between which sizes a pool may be resized, and by what."""
    needs = {"CPU": settings.cpus, "GPU": settings.num_gpus, **settings.resources}
    return PoolBounds(
        settings.min or settings.members,
        settings.max or settings.members,
        {name: amount for name, amount in needs.items() if amount},
        settings.target_queue_per_actor,
        settings.scale_down_after_s,
    )


@dataclass(frozen=True, slots=True)
class _Host:
    """What a pool's members host: a factory, and its arguments for the member with a number."""

    factory: Callable[..., Any]
    arguments: Callable[[int], dict[str, Any]]


def _host(pool: str, content: Mapping[str, Any], serving: Serving, base: str) -> _Host:
    if pool == ROLLOUT_POOL:
        return _Host(host_rollout, partial(_rollout_arguments, content, serving, base))
    if pool == CPU_POOL:
        return _Host(host_cpu, lambda member: {"config": content})
    return _Host(host_judges, lambda member: {"config": content, "pool": pool})


def _rollout_arguments(content: Mapping[str, Any], serving: Serving, base: str, member: int) -> dict[str, Any]:
    """A member starts with what is served when it is made; ``snapshot`` is ``None`` for the base model."""
    weights = serving.weights
    snapshot = None if weights.path == base else weights.path
    return {
        "config": content,
        "policy_version": weights.version,
        "snapshot": snapshot,
        "digests": weights.digests,
        "member": member,
    }


def _spec(config: Config, pool: str, host: _Host, member: int) -> MemberSpec:
    settings, name = config.pool(pool), f"{pool}/{member}"
    has_ray_workers = config.engine_args(pool).get("distributed_executor_backend") == "ray"
    return MemberSpec(
        name=name,
        factory=host.factory,
        arguments=host.arguments(member),
        work_threads=most_leases(config, pool),
        num_cpus=settings.cpus,
        num_gpus=0.0 if has_ray_workers else settings.num_gpus,  # those take the GPUs of the member's group themselves
        resources=settings.resources,
        env={**member_environment(config, pool), **settings.env},
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
        num_cpus=settings.cpus,
        num_gpus=settings.num_gpus,
        resources=settings.resources,
        env={**member_environment(config, TRAINER), **settings.env},
        group=member_group(config, TRAINER, f"{TRAINER}{suffix}"),
        bundle=rank,
    )


def member_environment(config: Config, pool: str) -> dict[str, str]:
    """What every member needs before it imports anything heavy (measured reasons: docs/decisions.md)."""
    engine = engine_environment(engine_options(config, pool), config.pool(pool).num_gpus)
    return {**engine, **QUIET, "PATH": os.environ.get("PATH", "")}
