"""``bcpg-cluster status --events``: what went wrong in a run, when, where, and what was done about it."""

from __future__ import annotations

import json
import re
import time
from datetime import UTC, datetime

import typer
from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table

from bcpg_cluster.errors import UserError
from bcpg_cluster.store.faults import FaultEvent, count_by_kind
from bcpg_cluster.store.manifest import read_manifest
from bcpg_cluster.store.path import RunPath
from bcpg_cluster_cli.console import counts_text
from bcpg_cluster_cli.session import find_run
from bcpg_cluster_cli.terminal import Terminal

_SECONDS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def run_events(run_dir: str | RunPath | None, since: str | None, *, as_json: bool) -> None:
    """Print the fault timeline of a run, oldest first; works while the run is running."""
    begin = 0.0 if since is None else since_time(since, time.time())
    directory = find_run(run_dir)
    faults = [fault for fault in read_manifest(directory).faults if fault.time >= begin]
    if as_json:
        typer.echo(json.dumps([fault.plain() for fault in faults], indent=2))
        return
    console = Terminal()
    if not faults:
        console.print(f"no faults{'' if since is None else f' since {since}'}", highlight=False, markup=False)
        return
    console.print(_table(faults))
    counts = counts_text(count_by_kind(faults))
    console.print(counts, highlight=False, markup=False)


def since_time(since: str, now: float) -> float:
    """Seconds since the epoch of ``--since``: an age (``90s``, ``10m``, ``2h``, ``1d``) or an ISO time, local unless it says.

    Raises:
        UserError: it is neither.
    """
    age = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd])", since.strip())
    if age:
        return now - float(age[1]) * _SECONDS[age[2]]
    try:
        return datetime.fromisoformat(since.strip()).timestamp()
    except (ValueError, OverflowError, OSError):
        raise UserError(
            f"--since {since}: no time",
            rule="an age like 90s, 10m, 2h or 1d, or an ISO time like 2026-11-29T13:00 (local) or 2026-11-29T12:00Z",
            remedy="correct it, or leave --since out for the whole run",
        ) from None


def _table(faults: list[FaultEvent]) -> Table:
    table = Table("time (UTC)", "round", "kind", "what, why, and what was done", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for fault in faults:
        host = f" (host {fault.host})" if fault.host else ""
        since = f" since {_clock(fault.first_time)}" if fault.first_time is not None else ""
        round_ = "-" if fault.round is None else str(fault.round)
        table.add_row(_clock(fault.time), round_, str(fault.kind), escape(f"{fault.text}{since}{host}"))
    return table


def _clock(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%m-%d %H:%M:%S")
