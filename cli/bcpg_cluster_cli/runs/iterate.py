"""``bcpg-cluster iterate``: the main job."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from functools import partial

import typer
from rich.console import Console

from bcpg_cluster.errors import Interrupted
from bcpg_cluster.run.build.assembly import build_coordinator
from bcpg_cluster.run.build.default_config import choose_config, read_config
from bcpg_cluster.run.directory import check_run_directory, open_run
from bcpg_cluster.run.preflight.notes import skipped_notes
from bcpg_cluster.run.preflight.preflight import preflight
from bcpg_cluster.run.prompt_digests import check_prompts, hold_prompts
from bcpg_cluster.run.snapshots import drop_torn_snapshots
from bcpg_cluster.store.manifest import read_manifest
from bcpg_cluster.store.path import RunPath
from bcpg_cluster.store.reports import RoundReport
from bcpg_cluster_cli.console import ConsoleObserver, closing_lines, print_report
from bcpg_cluster_cli.listeners import listeners, track_overrides
from bcpg_cluster_cli.session import new_run, start_runtime
from bcpg_cluster_cli.signals import stop_on_signals


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
) -> None:
    """Check everything, then start, then run the rounds that are missing."""
    console = Console(stderr=as_json)
    source = choose_config(source, address, partial(console.print, highlight=False), inline=inline)
    config = read_config(source, overrides, seed)
    if track:
        config = read_config(source, [*overrides, *track_overrides(track, config)], seed)
    directory = new_run(run_dir, config, None if seed is None else f"{config.name}-seed{seed}")
    check_run_directory(directory, config)
    reports = read_manifest(directory).reports
    if all(round_ in reports for round_ in range(rounds + 1)):
        console.print(
            f"{directory}: all {rounds} rounds are done already", highlight=False, markup=False, soft_wrap=True
        )
        _finish({round_: reports[round_] for round_ in range(rounds + 1)}, directory, console, as_json=as_json)
        return
    prompts = preflight(config)
    for line in skipped_notes(prompts):
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    if not take_changed_prompts:
        check_prompts(directory, read_manifest(directory), config, prompts)
    started = time.monotonic()
    with stop_on_signals(console) as stop_asked:
        # The cluster first: a run that may not start there leaves no directory behind.
        runtime = start_runtime(config, directory, address, inline=inline, console=console)
        try:
            with (
                open_run(directory.absolute(), config) as manifest,
                ConsoleObserver(console) as display,
                listeners(display, config, manifest, runtime) as observer,
            ):
                for change in hold_prompts(manifest, config, prompts, take_changed=take_changed_prompts):
                    console.print(f"taken from here on: {change}", highlight=False, markup=False, soft_wrap=True)
                drop_torn_snapshots(directory, manifest)
                for round_ in sorted(manifest.state.reports):
                    print_report(console, manifest.state.reports[round_])
                coordinator = build_coordinator(config, manifest, runtime, observer, stop_asked, prompts)
                done = coordinator.run(rounds)
        except KeyboardInterrupt:
            raise Interrupted("stopped at once; what was finished is kept") from None
        finally:
            runtime.shutdown()
    console.print(f"{time.monotonic() - started:.0f} s in all, engine starts included", highlight=False)
    _finish(done, directory, console, as_json=as_json)


def _finish(reports: dict[int, RoundReport], directory: RunPath, console: Console, *, as_json: bool) -> None:
    console.print(f"run: {directory}", highlight=False, markup=False, soft_wrap=True)
    if as_json:
        typer.echo(json.dumps([report.plain() for report in reports.values()]))
    console.print(closing_lines(reports), highlight=False, style="bold", soft_wrap=True)
