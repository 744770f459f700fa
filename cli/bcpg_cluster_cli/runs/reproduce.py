"""``bcpg-cluster reproduce``: whether a run can be made again here, and whether the same comes out."""

from __future__ import annotations

import json
from dataclasses import asdict
from functools import partial

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from bcpg_cluster.run.reproduce.check import Checked, check_run
from bcpg_cluster.run.reproduce.contents import Part
from bcpg_cluster.run.reproduce.rerun import Rerun, rerun
from bcpg_cluster.store.path import run_path
from bcpg_cluster_cli.console import ConsoleObserver
from bcpg_cluster_cli.endings import end_if_stuck
from bcpg_cluster_cli.session import find_run, say
from bcpg_cluster_cli.signals import stop_on_signals
from bcpg_cluster_cli.terminal import Terminal

_COLOURS = {"same": "green", "differs": "red", "missing": "red", "not recorded": "yellow"}


def run_check(run: str, *, as_json: bool) -> None:
    """Print what a run was made with beside what is here; the exit code says which is the case."""
    directory = find_run(run)
    checked = check_run(directory)
    if as_json:
        items = [asdict(item) for item in checked.items]
        typer.echo(json.dumps({"run": str(directory), "exit_code": checked.exit_code, "items": items}, indent=2))
    else:
        console = Terminal()
        console.print(_items_table(checked))
        console.print(_verdict(checked), style="bold", highlight=False, soft_wrap=True)
    raise typer.Exit(checked.exit_code)


def _items_table(checked: Checked) -> Table:
    table = Table("what", "in the run", "here", "state", "note")
    for item in checked.items:
        cells = (item.what, item.recorded, item.here)
        table.add_row(*map(escape, cells), f"[{_COLOURS[item.state]}]{item.state}[/]", escape(item.why))
    return table


def _verdict(checked: Checked) -> str:
    differing = [item for item in checked.items if item.state in ("differs", "missing")]
    unknown = sum(item.state == "not recorded" for item in checked.items)
    noted = f"; {unknown} not recorded" if unknown else ""
    if checked.in_the_way:
        return f"cannot be made again here: {', '.join(item.what for item in checked.in_the_way)}{noted}"
    if differing:
        return f"can be made again; results may differ: {', '.join(item.what for item in differing)}{noted}"
    return f"can be made again: all that was recorded is the same{noted}"


def run_rerun(
    run: str, out: str | None, rounds: int | None, address: str | None, *, inline: bool, as_json: bool
) -> None:
    """Make a run again and compare; the exit code says what came out."""
    console = Terminal(stderr=as_json)
    with stop_on_signals(console) as stop_asked, ConsoleObserver(console) as display:
        done = rerun(
            find_run(run),
            None if out is None else run_path(out),
            rounds,
            address=address,
            inline=inline,
            observer=display,
            stop_asked=stop_asked,
            say=partial(say, console),
            on_lost=end_if_stuck,
        )
    _show(console, done)
    if as_json:
        parts = [{**asdict(part), "is_equal": part.is_equal} for part in done.parts]
        facts = {"directory": str(done.directory), "rounds": done.rounds, "exit_code": done.exit_code}
        typer.echo(json.dumps({**facts, "parts": parts, "items": [asdict(item) for item in done.checked.items]}))
    raise typer.Exit(done.exit_code)


def _show(console: Console, done: Rerun) -> None:
    table = Table("round", "what", "rows", "state", "first difference")
    for part in done.parts:
        state = "[green]equal[/]" if part.is_equal else f"[red]{part.num_differing} differ[/]"
        table.add_row(str(part.round), escape(part.name), f"{part.num_rows:,}", state, escape(part.first))
    console.print(table)
    console.print(f"rerun: {done.directory}", highlight=False, markup=False, soft_wrap=True)
    console.print(_outcome(done.first_difference), style="bold", highlight=False, markup=False, soft_wrap=True)


def _outcome(first: Part | None) -> str:
    if first is None:
        return "equal: every table and all weights"
    return f"differs, first in round {first.round}, {first.name}: what is made from it may differ too"
