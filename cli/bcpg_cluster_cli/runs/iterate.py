"""``bcpg-cluster iterate``: the main job."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from functools import partial

import typer
from rich.console import Console

from bcpg_cluster.run.build.default_config import choose_config, read_config
from bcpg_cluster.run.directory import check_run_directory, keep_config
from bcpg_cluster.run.entry import run_rounds
from bcpg_cluster.run.listeners import track_overrides
from bcpg_cluster.store.manifest import read_manifest
from bcpg_cluster.store.path import RunPath
from bcpg_cluster.store.reports import RoundReport
from bcpg_cluster_cli.console import ConsoleObserver, closing_lines, print_report
from bcpg_cluster_cli.endings import end_if_stuck
from bcpg_cluster_cli.session import new_run, say
from bcpg_cluster_cli.signals import stop_on_signals
from bcpg_cluster_cli.terminal import Terminal


def run_iterate(
    rounds: int,
    source: str | None,
    overrides: Sequence[str],
    run_dir: str | RunPath | None,
    seed: int | None,
    address: str | None,
    *,
    track: list[str],
    as_json: bool,
    inline: bool,
    take_changed_prompts: bool = False,
    take_over: bool = False,
) -> None:
    """Check everything, then start, then run the rounds that are missing."""
    console = Terminal(stderr=as_json)
    source = choose_config(source, address, partial(console.print, highlight=False), inline=inline)
    config = read_config(source, overrides, seed)
    if track:
        config = read_config(source, [*overrides, *track_overrides(track, config)], seed)
    directory = new_run(run_dir, config, None if seed is None else f"{config.name}-seed{seed}")
    check_run_directory(directory, config, take_over=take_over)
    state = read_manifest(directory)
    reports = state.reports
    if all(round_ in reports for round_ in range(rounds + 1)):
        keep_config(directory, state, config)
        say(console, f"{directory}: all {rounds} rounds are done already")
        _finish({round_: reports[round_] for round_ in range(rounds + 1)}, directory, console, as_json=as_json)
        return
    for round_ in sorted(reports):
        print_report(console, reports[round_])
    started = time.monotonic()
    with stop_on_signals(console) as stop_asked, ConsoleObserver(console) as display:
        result = run_rounds(
            config,
            rounds,
            directory,
            address=address,
            inline=inline,
            observer=display,
            stop_asked=stop_asked,
            say=partial(say, console),
            on_lost=end_if_stuck,
            take_changed_prompts=take_changed_prompts,
            take_over=take_over,
        )
    console.print(f"{time.monotonic() - started:.0f} s in all, engine starts included", highlight=False)
    _finish(result.reports, directory, console, as_json=as_json)


def _finish(reports: Mapping[int, RoundReport], directory: RunPath, console: Console, *, as_json: bool) -> None:
    console.print(f"run: {directory}", highlight=False, markup=False, soft_wrap=True)
    if as_json:
        typer.echo(json.dumps([report.plain() for report in reports.values()]))
    console.print(closing_lines(reports), highlight=False, style="bold", soft_wrap=True)
