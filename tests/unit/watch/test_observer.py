"""observer.py: what is said reaches every listener, and what a run says is complete."""

from __future__ import annotations

import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bcpg_cluster.cluster.state import MemberState, PoolState
from bcpg_cluster.records import Receipt
from bcpg_cluster.store.faults import FaultEvent, FaultKind
from bcpg_cluster.store.manifest import read_manifest
from bcpg_cluster.store.reports import RoundReport
from bcpg_cluster.watch.observer import (
    Event,
    Faulted,
    Noted,
    Observers,
    PoolsSeen,
    RoundFinished,
    ShardAccepted,
    SilentObserver,
    StageProgress,
    StepTrained,
    WeightsPushed,
)
from tests.told import Heard, push_facts, step_report

EVENTS: list[Event] = [
    StageProgress(1, "generate", 2, 3),
    ShardAccepted(1, "verify", Receipt("outcomes", 1, 0, "a", "p", 1, 1, "c", 0.0, {})),
    PoolsSeen([]),
    StepTrained(1, step_report()),
    WeightsPushed(1, push_facts()),
    Noted("text"),
    Faulted(FaultEvent(FaultKind.RETRY, "what", "why")),
    RoundFinished(RoundReport(round=0)),
]


def test_every_kind_of_event_is_tried_here():
    assert {type(event) for event in EVENTS} == set(typing.get_args(Event))


def test_every_event_reaches_every_listener_in_order():
    first, last = Heard(), Heard()
    everybody = Observers([first, SilentObserver(), last])
    for event in EVENTS:
        everybody.hear(event)
    assert first.events == last.events == EVENTS


def test_a_pool_counts_its_members_by_state():
    members = tuple(MemberState(f"p/{n}", state, 0, 0.0) for n, state in enumerate(["ready", "starting", "ready"]))
    state = PoolState("p", 3, 1, 4, "config", 0, 0, 0.0, 0.0, members, {})
    assert [state.count(name) for name in ("ready", "starting", "draining")] == [2, 1, 0]


def test_a_run_tells_all_it_does(tmp_path: Path, make_config: Callable[..., Any], run_rounds: Callable[..., Any]):
    heard = Heard()
    small = {"evaluate": {"num_prompts": 6}, "prompts": {"per_round": 6}}
    run_rounds(tmp_path / "run", make_config(**small), 2, heard)
    state = read_manifest(tmp_path / "run")
    accepted = {(r.round, r.table, r.shard, r.attempt) for of_table in state.shards.values() for r in of_table.values()}
    prompts = {key for key in accepted if key[1] in ("prompts", "eval_prompts")}  # written by the run itself
    told = [(event.stage, event.receipt) for event in heard.of(ShardAccepted)]
    assert {(r.round, r.table, r.shard, r.attempt) for _, r in told} == accepted - prompts
    assert {stage for stage, r in told if r.table == "verdicts.llm"} == {"judge.llm"}
    pushed = {event.version: event.facts for event in heard.of(WeightsPushed)}
    for round_ in (1, 2):
        steps = [event.step for event in heard.of(StepTrained) if event.round == round_]
        assert [step.step for step in steps] == list(range(steps[-1].num_steps))
        assert state.pushes[round_] == pushed[round_]
    assert [event.report for event in heard.of(RoundFinished)] == [state.reports[round_] for round_ in (0, 1, 2)]
    names = [pool.name for pool in heard.of(PoolsSeen)[0].states]
    assert names == ["rollout", "cpu", "trainer"]
