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
from bcpg_cluster.store.layout import ray_namespace
from bcpg_cluster.store.path import RunPath


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
        ConfigError: this machine has too little memory, or the cluster cannot hold the run.
    """
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
