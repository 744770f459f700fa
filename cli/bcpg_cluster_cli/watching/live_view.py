"""What a run does now, as a person sees it: the content of ``live.json`` as tables."""

from __future__ import annotations

import time

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from bcpg_cluster.watch.live import Live

_NUM_EVENTS = 8


def live_view(live: Live | None, is_running: bool) -> RenderableType:
    """Everything; one line when there is no live status."""
    if live is None:
        return Text("running (no live status: `compare` keeps none)" if is_running else "not running")
    parts: list[RenderableType] = [Text(state_line(live, is_running, time.time()), no_wrap=True)]
    if live.stages and is_running:
        parts.append(_stages(live))
    if live.pools and is_running:
        parts += [_pools(live), _members(live)]
    parts += [Text(line) for line in _lines(live)]
    return Group(*parts)


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


def _pools(live: Live) -> Table:
    table = Table(
        "pool", "size", "bounds", "sized by", "ready", "starting", "no node", "draining", "queued", "leased", "busy",
        title="pools", title_justify="left",
    )  # fmt: skip
    for pool in live.pools:
        states = [member.state for member in pool.members]
        busy = pool.busy_share
        table.add_row(
            pool.name,
            str(pool.size),
            f"{pool.low} .. {pool.high}",
            pool.sized_by,
            *(str(states.count(state)) for state in ("ready", "starting", "placing", "draining")),
            str(pool.num_queued),
            str(pool.num_leased),
            "-" if busy is None or pool.name == "trainer" else f"{100 * busy:.0f} %",
        )
    return table


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
    if live.num_retries:
        lines.append(f"tried again since the start: {live.num_retries}")
    for event in live.events[-_NUM_EVENTS:]:
        at = time.strftime("%H:%M:%S", time.localtime(event.time))
        lines.append(f"{at}  {event.text.splitlines()[0] if event.text else ''}")
    return lines
