"""What the commands that run something share: choosing config and cluster, stopping cleanly."""

from __future__ import annotations

import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from bcpg_cluster.cluster.inline_runtime import InlineRuntime
from bcpg_cluster.cluster.placement import ClusterNodes, Plan, added, table
from bcpg_cluster.cluster.ray_runtime import ClusterChoice, RayRuntime, choose_cluster, look_at
from bcpg_cluster.cluster.runtime import Runtime
from bcpg_cluster.config import Config, load_config, shipped_configs
from bcpg_cluster.errors import ConfigError, RunDirectoryError
from bcpg_cluster.footprint import (
    ask_of,
    check_memory,
    check_placement,
    compare_with,
    free_memory_gib,
    local_gpus,
    local_resources,
)
from bcpg_cluster.run_path import RunPath, StoredPath, run_path
from bcpg_cluster.store.journal import has_journal
from bcpg_cluster.store.layout import ray_namespace
from bcpg_cluster.tasks.run_defaults import complete_from_tasks
from bcpg_cluster_cli.endings import end_if_stuck

if TYPE_CHECKING:
    from collections.abc import Callable

DEFAULT_CONFIG = "laptop"


def read_config(source: str | None, overrides: Sequence[str], seed: int | None) -> Config:
    """The config by name or path (the laptop's by default), with ``--set`` and ``--seed`` applied, then what its tasks say."""
    changes = [*overrides, *([] if seed is None else [f"seed={seed}"])]
    return load_config(source or DEFAULT_CONFIG, changes, complete_from_tasks)


def choose_config(source: str | None, address: str | None, console: Console, *, inline: bool = False) -> str:
    """``--config``; without it the choice follows what the cluster has, now or with the nodes its autoscaler may start: of the
    shipped configs that fit the one that uses most GPUs, and the laptop's on this machine alone, when it has no GPU.

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
        console.print(f"config: {DEFAULT_CONFIG} (no --config, and {where} has no GPU)", highlight=False)
        return DEFAULT_CONFIG
    uses = {name: num_gpus(load_config(name)) for name in shipped_configs() if "/" not in name}  # no ablations
    for name, used in sorted(uses.items(), key=lambda item: item[1], reverse=True):
        if used and place(load_config(name), nodes).verdict in ("fits", "may_come"):
            console.print(
                f"config: {name} (no --config; of the shipped ones the largest that fits {where})", highlight=False
            )
            return name
    raise ConfigError(
        f"no --config was given, and no shipped config for GPUs fits {where}, which has {gpus:g} GPUs",
        rule="without --config the shipped config that uses most of a cluster's GPUs runs; the laptop default runs by itself "
        "only on this machine alone",
        remedy="--config one of: " + ", ".join(f"{name} ({used:g} GPUs)" for name, used in uses.items()),
    )


def num_gpus(config: Config) -> float:
    """GPUs of all pools together."""
    return sum(ask_of(config, name).total().get("GPU", 0.0) for name in config.pool_names())


def place(config: Config, nodes: ClusterNodes) -> Plan:
    """The run's plan on a cluster, with what the configuration says of autoscaling."""
    largest = nodes.largest
    if config.autoscaling is not True and config.autoscaling is not False:
        return compare_with(config, nodes.there, free=nodes.free, largest=largest)
    grows = (largest or None) if config.autoscaling else ()
    return compare_with(config, nodes.there, free=nodes.free, largest=grows)


@contextmanager
def stop_on_signals(console: Console) -> Iterator[Callable[[], bool]]:
    """A flag that Ctrl-C (or SIGTERM) raises: the first asks for a clean stop, the second stops at once."""
    asked = False

    def ask(signum: int, frame: object) -> None:
        nonlocal asked
        if asked:
            raise KeyboardInterrupt
        asked = True
        console.print("[yellow]stopping: finishing what is under way (Ctrl-C again to stop at once)[/]")

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def start_runtime(
    config: Config, directory: RunPath, address: str | None, *, inline: bool, console: Console
) -> Runtime:
    """Ray by the rules of ``choose_cluster``, or threads of this process.

    Raises:
        ConfigError: this machine has too little memory, or the cluster cannot hold the run.
    """
    if inline:
        return InlineRuntime()
    choice: ClusterChoice = choose_cluster(address)
    if choice.address == "local":
        check_memory(config, free_memory_gib())
    console.print(f"ray: {choice.address} ({choice.reason})", highlight=False)
    runtime = RayRuntime(
        choice,
        namespace=ray_namespace(directory),
        local_resources=local_resources(config),
        on_lost=end_if_stuck,
    )
    try:
        found = place(config, runtime.look())
        check_placement(found)
    except ConfigError:
        runtime.shutdown()
        raise
    if found.verdict != "fits":
        console.print(f"[yellow]placement: {found.why}; members without a node will wait for one[/]", highlight=False)
        console.print(table(found.lines), highlight=False)
    if runtime.dashboard_url:
        console.print(f"dashboard: {runtime.dashboard_url}", highlight=False)
    return runtime


def new_run(run_dir: str | RunPath | None, config: Config, name: str | None = None) -> RunPath:
    """Where a run is to live: the given place, else ``runs/<name>``."""
    return run_path(run_dir or Path("runs") / (name or config.name), config.storage.options)


def find_run(run_dir: str | RunPath | None) -> RunPath:
    """The given run directory, or the newest one in ``runs/``.

    Raises:
        RunDirectoryError: there is none.
    """
    if run_dir is not None:
        place = run_path(run_dir)
        if isinstance(place, StoredPath):
            place.check_reachable()
        if not has_journal(place):
            raise RunDirectoryError(
                f"{place} is not a run",
                rule="--run-dir names a directory made by `bcpg-cluster iterate`",
                remedy="see runs/ for what is there",
            )
        return place
    found = sorted(Path("runs").glob("*/manifest.jsonl"), key=lambda path: path.stat().st_mtime)
    if not found:
        raise RunDirectoryError(
            "there is no run in runs/",
            rule="a run is made by `bcpg-cluster iterate`",
            remedy="start one, or give --run-dir",
        )
    return found[-1].parent
