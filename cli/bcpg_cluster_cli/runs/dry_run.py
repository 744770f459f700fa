"""``bcpg-cluster iterate --dry-run``: every part of a run on two problems, and what a round will take."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial

import typer
from rich.console import Console
from rich.table import Table

from bcpg_cluster.config.run import Config
from bcpg_cluster.run.build.default_config import choose_config, read_config
from bcpg_cluster.run.dry_run import DryRun, dry_run, place_of
from bcpg_cluster.store.path import RunPath
from bcpg_cluster_cli.console import ConsoleObserver
from bcpg_cluster_cli.endings import end_if_stuck
from bcpg_cluster_cli.session import new_run, say
from bcpg_cluster_cli.signals import stop_on_signals
from bcpg_cluster_cli.terminal import Terminal


def run_dry(
    source: str | None,
    overrides: Sequence[str],
    run_dir: str | RunPath | None,
    seed: int | None,
    address: str | None,
    *,
    as_json: bool,
    inline: bool,
) -> None:
    """Do the small round and print what each part took."""
    console = Terminal(stderr=as_json)
    source = choose_config(source, address, partial(console.print, highlight=False), inline=inline)
    config = read_config(source, overrides, seed)
    with stop_on_signals(console) as stop_asked, DryObserver(console) as display:
        found = dry_run(
            config,
            place_of(new_run(run_dir, config)),
            display,
            address=address,
            inline=inline,
            stop_asked=stop_asked,
            say=partial(say, console),
            on_lost=end_if_stuck,
        )
    if as_json:
        typer.echo(json.dumps(found.plain()))
        return
    show(console, config, found)


class DryObserver(ConsoleObserver):
    """Progress alone: a round on two problems is no result."""

    def finish(self, report: object) -> None:
        """No table of a round."""


def show(console: Console, config: Config, found: DryRun) -> None:
    """Parts, then what a round takes."""
    table = Table("part", "what it did", "took (s)", "a round (s)")
    for part in found.parts:
        table.add_row(part.name, part.work, f"{part.seconds:.1f}", f"{part.round_seconds:,.0f}")
    console.print(table)
    samples = config.prompts.per_round * config.generate.group_size
    lines = [
        "every part works: generation, rewards, judges, training, push with proof; nothing was kept",
        f"starting everything took {found.start_seconds:.0f} s"
        + (", in every round again (placement: colocated)" if config.placement == "colocated" else ""),
        f"a round of {samples:,} responses takes at most about {_duration(found.round_seconds)}, the sum: engines answer larger "
        "batches faster, and stages overlap",
    ]
    if found.cost is not None:
        lines.append(f"its judges cost about {found.cost:.2f} (in the currency of endpoint.price_*)")
    for line in lines:
        say(console, line)


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
