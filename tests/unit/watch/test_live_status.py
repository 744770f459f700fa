"""live_status.py: what others read of a run, and whether it is alive."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bcpg_cluster.cluster.state import MemberState, PoolState
from bcpg_cluster.errors import EngineError, Interrupted
from bcpg_cluster.store.faults import FaultEvent, FaultKind
from bcpg_cluster.store.layout import LIVE
from bcpg_cluster.store.manifest import Manifest
from bcpg_cluster.store.reports import RoundReport
from bcpg_cluster.watch.live import Ending, Live
from bcpg_cluster.watch.live_status import HEARTBEAT_S, LiveStatus, is_alive, read_live, seconds_left
from bcpg_cluster.watch.observer import (
    Faulted,
    Noted,
    PoolsSeen,
    RoundFinished,
    StageProgress,
    StepTrained,
    WeightsPushed,
)
from bcpg_cluster_cli.watching.live_view import duration, live_view, state_line
from tests.told import push_facts, step_report


def pool(busy_s: float = 0.0, ready_s: float = 0.0, **changes: Any) -> PoolState:
    members = (MemberState("rollout/0", "ready", 1, busy_s, 3), MemberState("rollout/1", "placing", 0, 0.0))
    facts = {
        "name": "rollout", "size": 2, "low": 1, "high": 4, "sized_by": "queue", "num_queued": 5, "num_leased": 1,
        "busy_s": busy_s, "ready_s": ready_s, "members": members, "needs": {"GPU": 1.0}, "target_queue_per_actor": 2.0,
    }  # fmt: skip
    return PoolState(**{**facts, **changes})


@pytest.mark.parametrize(
    ("done", "total", "first", "passed", "left"),
    [(0, 10, 0, 5.0, None), (5, 10, 0, 5.0, 5.0), (8, 10, 6, 4.0, 4.0), (6, 10, 6, 9.0, None), (10, 10, 10, 0.0, 0.0)],
)
def test_time_left_counts_only_what_was_done_here(done: int, total: int, first: int, passed: float, left: float | None):
    assert seconds_left(done, total, first, passed) == left


def test_what_is_heard_is_in_the_file(tmp_path: Path, clock: Any):
    with LiveStatus(tmp_path, clock=clock, steady=clock) as live:
        live.hear(StageProgress(1, "generate", 2, 10))
        clock.now += 6
        live.hear(StageProgress(1, "generate", 5, 10))
        live.hear(PoolsSeen([pool(busy_s=2.0, ready_s=4.0)]))
        live.hear(PoolsSeen([pool(busy_s=3.0, ready_s=8.0)]))
        live.hear(StepTrained(1, step_report(step=4, num_steps=9, loss=0.25)))
        live.hear(WeightsPushed(3, push_facts()))
        live.hear(Noted("rollout: 1 -> 2 members"))
        live.hear(Faulted(FaultEvent(FaultKind.REQUEUE, "piece 1", "gone")))
        content = live.content().plain()
    assert content["stages"] == [{"round": 1, "name": "generate", "done": 5, "total": 10, "seconds_left": 10.0}]
    assert content["pools"][0]["busy_share"] == 0.25  # of the time since the look before
    assert content["training"] == {"round": 1, "steps": 5, "num_steps": 9, "loss": 0.25}
    assert (content["last_push"]["version"], content["versions"]) == (3, {"served": 3, "trained": 3})
    assert [event["text"] for event in content["events"]] == ["rollout: 1 -> 2 members", "piece 1: gone"]
    assert content["num_faults"] == 1
    shown = read_live(tmp_path)
    assert shown is not None
    assert shown.ended is not None
    assert (shown.ended.how, shown.last_push.seconds) == ("done", 1.5)


def test_pools_come_back_as_they_were_told(tmp_path: Path):
    with LiveStatus(tmp_path) as live:
        live.hear(PoolsSeen([pool()]))
        (tmp_path / LIVE).write_text(json.dumps(live.content().plain()))
        found = read_live(tmp_path)
        assert found is not None
        assert [seen.state() for seen in found.pools] == [pool()]


def test_a_new_round_takes_the_place_of_the_one_before(tmp_path: Path):
    live = LiveStatus(tmp_path)
    live.hear(StageProgress(1, "generate", 4, 4))
    live.hear(StageProgress(2, "generate", 0, 4))
    assert [(stage.round, stage.done) for stage in live.content().stages] == [(2, 0)]


def test_an_evaluation_beside_the_next_training_takes_no_place(tmp_path: Path):
    def shown() -> tuple[int | None, list[tuple[int, str, int]]]:
        content = live.content()
        return content.round, [(stage.round, stage.name, stage.done) for stage in content.stages]

    live = LiveStatus(tmp_path)
    live.hear(StageProgress(1, "push", 1, 1))
    live.hear(StageProgress(2, "train", 0, 4))
    live.hear(StageProgress(1, "evaluate", 0, 8))
    live.hear(StageProgress(2, "train", 2, 4))
    live.hear(StageProgress(1, "evaluate", 8, 8))
    assert shown() == (2, [(2, "train", 2), (1, "evaluate", 8)])
    live.hear(RoundFinished(RoundReport(round=1)))
    assert shown() == (2, [(2, "train", 2)])
    live.hear(StageProgress(2, "evaluate", 8, 8))
    live.hear(RoundFinished(RoundReport(round=2)))
    assert shown() == (2, [(2, "train", 2), (2, "evaluate", 8)])
    live.hear(StageProgress(3, "generate", 0, 4))
    assert shown() == (3, [(3, "generate", 0)])


@pytest.mark.parametrize(
    ("error", "how", "why"),
    [
        (None, "done", ""),
        (Interrupted("stop was asked for"), "stopped", "Interrupted: stop was asked for"),
        (EngineError("no memory\nand more"), "failed", "EngineError: no memory"),
    ],
)
def test_the_file_says_how_the_run_ended(tmp_path: Path, error: Exception | None, how: str, why: str):
    def run() -> None:
        with LiveStatus(tmp_path) as live:
            live.hear(PoolsSeen([pool()]))
            if error is not None:
                raise error

    if error is None:
        run()
    else:
        with pytest.raises(type(error)):
            run()
    found = read_live(tmp_path)
    assert found is not None
    assert found.ended is not None
    assert (found.ended.how, found.ended.why) == (how, why)
    assert not is_alive(tmp_path)


def test_the_heartbeat_goes_on_while_the_run_waits(tmp_path: Path):
    """The run's own thread says nothing, as in a long push."""
    beats: set[float] = set()
    with LiveStatus(tmp_path):
        waited = threading.Event()
        for _ in range(600):
            found = read_live(tmp_path)
            assert found is not None
            beats.add(found.heartbeat)
            if len(beats) == 3:
                break
            waited.wait(0.1)
    assert len(beats) >= 3


def test_a_lock_says_who_lives_on_this_machine(tmp_path: Path):
    live = LiveStatus(tmp_path)
    live._write()
    assert not is_alive(tmp_path)  # nobody holds the lock: it was killed
    with Manifest(tmp_path):
        assert is_alive(tmp_path)
    (tmp_path / LIVE).unlink()
    assert not is_alive(tmp_path)


@pytest.mark.parametrize("skew", [0.0, -3600.0, 3600.0])
@pytest.mark.parametrize("is_going", [True, False])
def test_a_heartbeat_says_who_lives_elsewhere_whatever_the_clocks_say(tmp_path: Path, skew: float, is_going: bool):
    there = {"now": 5000.0}
    live = LiveStatus(tmp_path, clock=lambda: there["now"] + skew)

    def beat() -> None:
        (tmp_path / LIVE).write_text(json.dumps({**live.content().plain(), "boot": "another machine"}))

    def wait(seconds: float) -> None:
        there["now"] += seconds
        if is_going:
            beat()

    beat()
    there["now"] += 1.0 if is_going else 10 * HEARTBEAT_S
    assert is_alive(tmp_path, now=lambda: there["now"], wait=wait) is is_going


def test_a_torn_or_absent_file_is_no_status(tmp_path: Path):
    assert read_live(tmp_path) is None
    (tmp_path / LIVE).write_text('{"pid": 3, ')
    assert read_live(tmp_path) is None
    assert not is_alive(tmp_path)


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0 s"), (99, "99 s"), (200, "3:20 min"), (7500, "2:05 h")]
)  # fmt: skip
def test_durations(seconds: float, text: str):
    assert duration(seconds) == text


def shown(live: Live | None, is_running: bool) -> str:
    from rich.console import Console

    console = Console(width=160)
    with console.capture() as captured:
        console.print(live_view(live, is_running))
    return captured.get()


def test_the_view_shows_pools_members_progress_and_push(tmp_path: Path, clock: Callable[[], float]):
    live = LiveStatus(tmp_path, clock=clock, steady=clock)
    live.hear(StageProgress(2, "judge.llm", 3, 8))
    live.hear(PoolsSeen([pool(busy_s=2.0, ready_s=4.0)]))
    live.hear(StepTrained(2, step_report(step=4, num_steps=9, loss=0.25)))
    live.hear(WeightsPushed(3, push_facts()))
    live.hear(Noted("rollout: 1 -> 2 members\nand why"))
    text = shown(live.content(), True)
    for words in (
        "running, round 2", "judge.llm", "3 / 8", "1 .. 4", "50 %", "rollout/0", "v3", "waiting for a node with {GPU: 1}",
        "step 5 of 9", "last push: v3 by gloo to 2 engines in 1.50 s", "rollout: 1 -> 2 members",
    ):  # fmt: skip
        assert words in text, words
    assert "and why" not in text


def test_the_view_fits_80_columns(tmp_path: Path, clock: Any):
    """No word is cut: a cell that were would end in an ellipsis."""
    from rich.console import Console

    live = LiveStatus(tmp_path, clock=clock, steady=clock)
    live.hear(StageProgress(2, "judge.process_reward", 3, 8))
    ready = (
        MemberState("judge.process_reward/0", "ready", 1, 1.0),
        MemberState("judge.process_reward/1", "starting", 0, 0.0),
    )
    live.hear(PoolsSeen([pool(name="judge.process_reward", members=ready), pool(name="trainer", members=ready[:1])]))
    console = Console(width=80)
    with console.capture() as captured:
        console.print(live_view(live.content(), True))
    text = captured.get()
    assert max(map(len, text.splitlines())) <= 80
    assert "\u2026" not in text
    for words in ("pool", "size", "ready", "starting", "queued", "leased", "busy", "judge.process_reward/1"):
        assert words in text, words
    assert "bounds" not in text and "draining" not in text
    gone = state_line(live.content(), False, clock.now + 400)
    with console.capture() as captured:
        console.print(live_view(live.content(), False))
    assert " ".join(captured.get().split()).endswith("`iterate` resumes it") and len(gone) > 80


def test_the_view_says_when_a_run_is_gone_or_over(tmp_path: Path, clock: Any):
    live = LiveStatus(tmp_path, clock=clock, steady=clock)
    content = live.content()
    assert "was last heard of 40 s ago" in state_line(content, False, clock.now + 40)
    ended = Ending(how="failed", why="EngineError: no memory", time=clock.now)
    content = content.model_copy(update={"ended": ended})
    assert state_line(content, False, clock.now + 5) == "not running: failed 5 s ago (EngineError: no memory)"
    assert shown(None, False).strip() == "not running"
    assert "no live status" in shown(None, True)
