"""cli/console.py: what a person sees while engines start, and that bars count no start-up."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import pytest
from rich.console import Console

from bcpg_cluster.cluster.state import MemberState, PoolState
from bcpg_cluster.watch.observer import PoolsSeen, StageProgress
from bcpg_cluster_cli.console import ConsoleObserver, EngineStarts


def pools(*states: str) -> list[PoolState]:
    """Two pools: the members in these states, and a cpu member that is ready."""
    members = tuple(MemberState(f"rollout/{n}", state, 0, 0.0) for n, state in enumerate(states))
    facts: dict[str, Any] = {"low": 1, "high": 1, "sized_by": "config", "num_queued": 0, "num_leased": 0, "busy_s": 0.0}
    facts |= {"ready_s": 0.0, "needs": {}}
    cpu = PoolState(name="cpu", size=1, members=(MemberState("cpu/0", "ready", 0, 0.0),), **facts)
    return [PoolState(name="rollout", size=len(states), members=members, **facts), cpu]


def test_engines_that_start_are_counted():
    starts = EngineStarts()
    assert not starts.are_over  # no pool was seen yet
    assert starts.see(pools("starting", "placing"), 10.0) == ""
    assert starts.text == "starting engines: 1 of 3 ready"
    assert starts.see(pools("ready", "starting"), 12.9) == ""  # not worth a line yet
    assert starts.see(pools("ready", "starting"), 13.0) == "starting engines: 2 of 3 ready"
    assert starts.see(pools("ready", "starting"), 20.0) == ""  # one line is enough
    assert starts.see(pools("ready", "stalled", "draining"), 45.0) == "engines: 3 of 3 ready after 35 s"
    assert (starts.text, starts.are_over) == ("", True)
    assert starts.see(pools("starting"), 50.0) == "" and not starts.are_over  # a replacement
    assert starts.see(pools("ready"), 51.0) == ""


@pytest.fixture
def clock_of() -> Callable[[list[float]], Callable[[], float]]:
    """A clock that shows these times, one a look."""
    return lambda times: iter(times).__next__


def observer_on(console: Console, clock: Any) -> ConsoleObserver:
    return ConsoleObserver(console, clock=clock)


def test_without_a_terminal_a_long_start_is_two_lines(clock_of: Any):
    console = Console(file=io.StringIO(), width=80)
    clock = clock_of([0.0, 5.0, 40.0])
    observer = observer_on(console, clock)
    observer.hear(StageProgress(0, "evaluate", 0, 4))
    for states in (pools("starting"), pools("starting"), pools("ready")):
        observer.hear(PoolsSeen(states))
    assert console.file.getvalue().splitlines() == [  # type: ignore[attr-defined]
        "starting engines: 1 of 2 ready",
        "engines: 2 of 2 ready after 40 s",
    ]


def test_a_bars_time_begins_when_the_engines_are_ready(clock_of: Any):
    observer = observer_on(Console(file=io.StringIO(), width=80), clock_of([0.0, 1.0, 2.0, 3.0]))
    observer.hear(StageProgress(0, "evaluate", 0, 4))
    (task,) = observer._progress.tasks
    assert not task.started
    observer.hear(PoolsSeen(pools("starting")))
    assert [(t.description, t.started) for t in observer._progress.tasks] == [
        ("round 0  evaluate", False),
        ("starting engines: 1 of 2 ready", True),
    ]
    observer.hear(PoolsSeen(pools("ready")))
    assert [(t.description, t.started) for t in observer._progress.tasks] == [("round 0  evaluate", True)]
    observer.hear(StageProgress(0, "verify", 0, 4))
    assert all(t.started for t in observer._progress.tasks)


def test_a_stage_that_delivers_has_begun_whatever_else_starts(clock_of: Any):
    observer = observer_on(Console(file=io.StringIO(), width=80), clock_of([0.0]))
    observer.hear(PoolsSeen(pools("starting")))
    observer.hear(StageProgress(1, "generate", 1, 4))
    assert [t.started for t in observer._progress.tasks if "generate" in t.description] == [True]
