"""Start what a run's members live in: Ray, by the rules of ``choose_cluster``, or threads of this process."""

from __future__ import annotations

from collections.abc import Callable

from bcpg_cluster.cluster.inline_runtime import InlineRuntime
from bcpg_cluster.cluster.on_ray.runtime import RayRuntime, choose_cluster
from bcpg_cluster.cluster.placement import table
from bcpg_cluster.cluster.runtime import Runtime
from bcpg_cluster.config.run import Config
from bcpg_cluster.errors import ClusterLostError, ConfigError
from bcpg_cluster.run.build.default_config import place
from bcpg_cluster.run.build.engine_defaults import with_member_cpus
from bcpg_cluster.run.build.footprint import check_memory, check_placement, free_memory_gib, local_resources
from bcpg_cluster.stages.graph import ROLLOUT_POOL
from bcpg_cluster.store.layout import ray_namespace
from bcpg_cluster.store.path import RunPath


def check_inline(config: Config, address: str | None, *, inline: bool) -> None:
    """Check that a run fits into one process, where it is to.

    Raises:
        ConfigError: a cluster was named too, or the run has engines that need processes of their own.
    """
    if not inline:
        return
    if address is not None:
        raise ConfigError(
            f"--inline with --address {address}",
            rule="--inline runs in this process, without any cluster",
            remedy="leave one of them out",
        )
    engines = [name for name in config.pool_names() if hosts_vllm(config, name)]
    engines += ["trainer"] if config.train.kind == "deepspeed" and config.pool("trainer").members > 1 else []
    if engines:
        raise ConfigError(
            f"--inline, but {', '.join(engines)} cannot run in this process",
            rule="--inline is for fakes and tests: engines of vLLM, and trainers of several ranks, need a process each",
            remedy="leave --inline out: without it a Ray is started on this machine",
        )


def hosts_vllm(config: Config, pool: str) -> bool:
    """Whether the members of a pool are engines of vLLM, or of transformers in its place."""
    if pool == ROLLOUT_POOL:
        return config.policy.kind == "vllm"
    return any(
        judge.kind in ("llm", "prm") and config.judge_pool(name) == pool for name, judge in config.judges.items()
    )


def launch(
    config: Config,
    directory: RunPath,
    address: str | None,
    *,
    inline: bool,
    say: Callable[[str], object] = lambda text: None,
    on_lost: Callable[[ClusterLostError], None] = lambda error: None,
) -> tuple[Runtime, Config]:
    """The runtime, and the config with its members' CPUs filled in.

    Args:
        say: is told which Ray was chosen, and where room is missing.
        on_lost: called once, in a thread, when the cluster's head is given up.

    Raises:
        ConfigError: this machine has too little memory, the cluster cannot hold the run, or it cannot be inline.
    """
    check_inline(config, address, inline=inline)
    if inline:
        return InlineRuntime(), config
    choice = choose_cluster(address)
    if choice.address == "local":
        check_memory(config, free_memory_gib())
    say(f"ray: {choice.address} ({choice.reason})")
    runtime = RayRuntime(
        choice, namespace=ray_namespace(directory), local_resources=local_resources(config), on_lost=on_lost
    )
    try:
        nodes = runtime.look()
        found = place(config, nodes)
        check_placement(found)
    except ConfigError:
        runtime.shutdown()
        raise
    if found.verdict != "fits":
        say(f"placement: {found.why}; members without a node will wait for one\n{table(found.lines)}")
    if runtime.dashboard_url:
        say(f"dashboard: {runtime.dashboard_url}")
    return runtime, with_member_cpus(config, nodes)
