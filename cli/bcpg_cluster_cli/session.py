"""What the commands that run something share: choosing config and cluster, stopping cleanly."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from bcpg_cluster.cluster.inline_runtime import InlineRuntime
from bcpg_cluster.cluster.on_ray.runtime import ClusterChoice, RayRuntime, choose_cluster
from bcpg_cluster.cluster.placement import table
from bcpg_cluster.cluster.runtime import Runtime
from bcpg_cluster.config.run import Config
from bcpg_cluster.errors import ConfigError, RunDirectoryError
from bcpg_cluster.run.build.default_config import place
from bcpg_cluster.run.build.footprint import (
    check_memory,
    check_placement,
    free_memory_gib,
    local_resources,
)
from bcpg_cluster.stages.graph import ROLLOUT_POOL
from bcpg_cluster.store.journal import has_journal
from bcpg_cluster.store.layout import ray_namespace
from bcpg_cluster.store.path import RunPath, StoredPath, run_path
from bcpg_cluster_cli.endings import end_if_stuck

if TYPE_CHECKING:
    pass


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


def start_runtime(
    config: Config, directory: RunPath, address: str | None, *, inline: bool, console: Console
) -> Runtime:
    """Ray by the rules of ``choose_cluster``, or threads of this process.

    Raises:
        ConfigError: this machine has too little memory, the cluster cannot hold the run, or it cannot be inline.
    """
    if inline:
        check_inline(config, address, inline=True)
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
                remedy="see runs/ for the runs here",
            )
        return place
    found = sorted(Path("runs").glob("*/manifest.jsonl"), key=lambda path: path.stat().st_mtime)
    if not found:
        raise RunDirectoryError(
            "no run in runs/",
            rule="a run is made by `bcpg-cluster iterate`",
            remedy="start one, or give --run-dir",
        )
    return found[-1].parent
