"""What the commands that run something share: choosing config and cluster, stopping cleanly."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from rich.console import Console

from bcpg_cluster.cluster.runtime import Runtime
from bcpg_cluster.config.run import Config
from bcpg_cluster.errors import RunDirectoryError
from bcpg_cluster.run.launch import launch
from bcpg_cluster.store.journal import has_journal
from bcpg_cluster.store.path import RunPath, StoredPath, run_path
from bcpg_cluster_cli.endings import end_if_stuck


def start_runtime(
    config: Config, directory: RunPath, address: str | None, *, inline: bool, console: Console
) -> tuple[Runtime, Config]:
    """See :func:`bcpg_cluster.run.launch.launch`."""
    return launch(config, directory, address, inline=inline, say=partial(say, console), on_lost=end_if_stuck)


def say(console: Console, text: str) -> None:
    """Print what a person should read, as it is."""
    console.print(text, highlight=False, markup=False, soft_wrap=True)


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
