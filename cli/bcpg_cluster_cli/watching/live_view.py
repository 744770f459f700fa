"""What a run does now, as a person sees it: the content of ``live.json`` as tables."""

from __future__ import annotations

import time
from dataclasses import dataclass

from rich.box import HEAVY_HEAD, SIMPLE_HEAD
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.table import Table
from rich.text import Text

from bcpg_cluster.watch.live import Live, PoolNow
from bcpg_cluster_cli.terminal import shown

_NUM_EVENTS = 8
WIDE = 110
"""Columns from which on a terminal has room for everything; with fewer, tables show what matters most."""


@dataclass(frozen=True, slots=True)
class LiveView:
    """What a run does now, as wide as there is room for."""

    live: Live | None
    is_running: bool

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """See rich."""
        live = self.live
        if live is None:
            yield Text("running (no live status: `compare` keeps none)" if self.is_running else "not running")
            return
        is_wide = options.max_width >= WIDE
        yield Text(shown(state_line(live, self.is_running, time.time())))
        if live.stages and self.is_running:
            yield _stages(live)
        if live.pools and self.is_running:
            yield _pools(live, is_wide=is_wide)
            yield _members(live)
        for line in _lines(live):
            yield Text(shown(line))


def live_view(live: Live | None, is_running: bool) -> RenderableType:
    """Everything; one line when there is no live status."""
    return LiveView(live, is_running)


def state_line(live: Live, is_running: bool, now: float) -> str:
    """Whether the run is running, has ended, or died without a word."""
    where = f"process {live.pid} on {live.host}"
    if is_running:
        return f"running, round {'-' if live.round is None else live.round} ({where})"
    if live.ended is None:
        age = max(now - live.heartbeat, 0.0)
        return (
            f"not running: {where} was last heard of {duration(age)} ago and did not end properly; `iterate` resumes it"
        )
    how, why = live.ended.how, live.ended.why
    return f"not running: {how} {duration(max(now - live.ended.time, 0.0))} ago" + (f" ({why})" if why else "")


def duration(seconds: float) -> str:
    """``42 s``, ``3:20 min`` or ``2:05 h``."""
    whole = round(seconds)
    if whole < 100:
        return f"{whole} s"
    return f"{whole // 60}:{whole % 60:02d} min" if whole < 6000 else f"{whole // 3600}:{whole % 3600 // 60:02d} h"


def _stages(live: Live) -> Table:
    table = Table("round", "stage", "done", "left", title="stages", title_justify="left")
    for stage in live.stages:
        left = stage.seconds_left
        is_done = stage.done >= stage.total
        table.add_row(
            str(stage.round),
            stage.name,
            f"{stage.done} / {stage.total}",
            "" if is_done else "-" if left is None else f"about {duration(left)}",
        )
    return table


_NARROW = ("pool", "size", "ready", "starting", "queued", "leased", "busy")
_RARE = ("no node", "draining", "stalled")  # shown where there is any


def _pools(live: Live, *, is_wide: bool) -> Table:
    rows = [_pool_cells(pool) for pool in live.pools]
    columns = [
        column
        for column in rows[0]
        if is_wide or column in _NARROW or (column in _RARE and any(row[column] != "0" for row in rows))
    ]
    table = Table(*columns, title="pools", title_justify="left", box=HEAVY_HEAD if is_wide else SIMPLE_HEAD)
    for row in rows:
        table.add_row(*(row[column] for column in columns))
    return table


def _pool_cells(pool: PoolNow) -> dict[str, str]:
    states = [member.state for member in pool.members]
    busy = pool.busy_share
    return {
        "pool": pool.name,
        "size": str(pool.size),
        "bounds": f"{pool.low} .. {pool.high}",
        "sized by": pool.sized_by,
        "ready": str(states.count("ready")),
        "starting": str(states.count("starting")),
        "no node": str(states.count("placing")),
        "draining": str(states.count("draining")),
        "stalled": str(states.count("stalled")),
        "queued": str(pool.num_queued),
        "leased": str(pool.num_leased),
        "busy": "-" if busy is None or pool.name == "trainer" else f"{100 * busy:.0f} %",
    }


def _members(live: Live) -> Table:
    table = Table("member", "state", "leases", "policy", title="members", title_justify="left")
    for pool in live.pools:
        for member in pool.members:
            version = member.policy_version
            state = member.state
            if state == "placing":
                needs = ", ".join(f"{resource}: {amount:g}" for resource, amount in pool.needs.items())
                state = f"waiting for a node with {{{needs}}}"
            table.add_row(member.name, state, str(member.num_leases or ""), "" if version is None else f"v{version}")
    return table


def _lines(live: Live) -> list[str]:
    lines = []
    if live.training is not None:
        training = live.training
        lines.append(
            f"training of round {training.round}: step {training.steps} of {training.num_steps}, "
            f"loss {training.loss:.4f}"
        )
    if live.versions.served is not None:
        lines.append(f"policy served: v{live.versions.served}")
    if live.last_push is not None:
        push = live.last_push
        lines.append(
            f"last push: v{push.version} by {push.method} to {push.num_members} engines in "
            f"{push.seconds:.2f} s, canaries {push.canaries}, worst {push.worst_nats:.1e} nats"
        )
    if live.num_faults:
        lines.append(f"faults since the start: {live.num_faults} (see `status --events`)")
    for event in live.events[-_NUM_EVENTS:]:
        at = time.strftime("%H:%M:%S", time.localtime(event.time))
        lines.append(f"{at}  {event.text.splitlines()[0] if event.text else ''}")
    return lines
