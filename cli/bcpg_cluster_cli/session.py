"""What the commands that run something share: choosing config and cluster, stopping cleanly."""

from __future__ import annotations

import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from bcpg_cluster.build import check_memory, free_memory_gib, local_resources
from bcpg_cluster.cluster.inline_runtime import InlineRuntime
from bcpg_cluster.cluster.ray_runtime import ClusterChoice, RayRuntime, choose_cluster
from bcpg_cluster.cluster.runtime import Runtime
from bcpg_cluster.config import Config, load_config, shipped_configs
from bcpg_cluster.errors import ConfigError, RunDirectoryError
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


def require_named_config(source: str | None, num_gpus: float, console: Console) -> None:
    """Without ``--config`` the choice follows the cluster: no GPU anywhere gives the laptop default.

    Raises:
        ConfigError: the cluster has GPUs, so which real model to train must be said.
    """
    if source is not None:
        return
    if num_gpus:
        raise ConfigError(
            f"the cluster has {num_gpus:g} GPUs and no --config was given",
            rule="on a cluster with GPUs the model to train is chosen by you, never the laptop default",
            remedy=f"--config one of: {', '.join(shipped_configs())}",
        )
    console.print(f"config: {DEFAULT_CONFIG} (no --config, and the cluster has no GPU)", highlight=False)


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
    config: Config, directory: RunPath, address: str | None, source: str | None, *, inline: bool, console: Console
) -> Runtime:
    """Ray by the rules of ``choose_cluster``, or threads of this process."""
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
    require_named_config(source, runtime.cluster_resources().get("GPU", 0.0), console)
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
