"""Which config runs when none is named."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from bcpg_cluster.cluster.on_ray.runtime import choose_cluster, look_at
from bcpg_cluster.cluster.placement import ClusterNodes, Plan, added
from bcpg_cluster.config.load import change_config, load_config, shipped_configs
from bcpg_cluster.config.run import Config
from bcpg_cluster.config.task_defaults import complete_from_tasks
from bcpg_cluster.errors import ConfigError
from bcpg_cluster.run.build.engine_defaults import with_member_cpus
from bcpg_cluster.run.build.footprint import ask_of, compare_with, local_gpus
from bcpg_cluster.run.build.plugins import pin_plugins

DEFAULT_CONFIG = "laptop"


def read_config(source: str | None, overrides: Sequence[str], seed: int | None) -> Config:
    """The config by name or path (the laptop's by default), with ``--set`` and ``--seed`` applied, then what its tasks say; the
    user's own code it names is pinned to its content.
    """
    changes = [*overrides, *([] if seed is None else [f"seed={seed}"])]
    return load_config(source or DEFAULT_CONFIG, changes, complete)


def complete(content: dict[str, Any]) -> None:
    """Add to a configuration's content (in place) all that follows from it."""
    complete_from_tasks(content)
    pin_plugins(content)


def config_from(content: dict[str, Any], where: str, changes: Sequence[str] = ()) -> Config:
    """A config from its content (changed in place), completed as by :func:`read_config`. Raises :class:`ConfigError` where it is
    invalid.
    """
    return change_config(content, changes, where, complete)


def choose_config(
    source: str | None, address: str | None, say: Callable[[str], object], *, inline: bool = False
) -> str:
    """``--config``; without it the choice follows what the cluster has, now or with the nodes its autoscaler may start: of the
    shipped configs that fit the one that uses most GPUs, and the laptop's on this machine alone, when it has no GPU.

    Args:
        say: is told which config was chosen, and why.

    Raises:
        ConfigError: a cluster (not this machine alone) without GPUs, or GPUs that no shipped config fits.
    """
    if source is not None or inline:
        return source or DEFAULT_CONFIG
    choice = choose_cluster(address)
    if choice.address == "local":
        here = [{"CPU": 1e6, "GPU": float(local_gpus())}]  # processors are asked for sparingly by all configs
        nodes = ClusterNodes(here, here)
        where = "this machine"
    else:
        nodes = look_at(choice)
        where = f"the cluster at {choice.address}"
    gpus = added([*nodes.there, *(nodes.largest or ())]).get("GPU", 0.0)
    if not gpus and choice.address == "local":
        say(f"config: {DEFAULT_CONFIG} (no --config, and {where} has no GPU)")
        return DEFAULT_CONFIG
    uses = {name: num_gpus(load_config(name)) for name in shipped_configs() if "/" not in name}  # no ablations
    for name, used in sorted(uses.items(), key=lambda item: item[1], reverse=True):
        if used and place(load_config(name), nodes).verdict in ("fits", "may_come"):
            say(f"config: {name} (no --config; of the shipped ones the largest that fits {where})")
            return name
    raise ConfigError(
        f"no --config was given, and no shipped config for GPUs fits {where}, which has {gpus:g} GPUs",
        rule="without --config, the shipped config that uses most of a cluster's GPUs runs; the laptop default is chosen "
        "only for this machine alone, without GPUs",
        remedy="--config one of: " + ", ".join(f"{name} ({used:g} GPUs)" for name, used in uses.items()),
    )


def num_gpus(config: Config) -> float:
    """GPUs of all pools together."""
    return sum(ask_of(config, name).total().get("GPU", 0.0) for name in config.pool_names())


def place(config: Config, nodes: ClusterNodes) -> Plan:
    """The run's plan on a cluster, with what the configuration says of autoscaling."""
    config = with_member_cpus(config, nodes)
    largest = nodes.largest
    if config.autoscaling is not True and config.autoscaling is not False:
        return compare_with(config, nodes.there, free=nodes.free, largest=largest)
    grows = (largest or None) if config.autoscaling else ()
    return compare_with(config, nodes.there, free=nodes.free, largest=grows)
