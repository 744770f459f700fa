"""observer.py: what is said reaches every listener, and what a run says is complete."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bcpg_cluster.cluster.state import MemberState, PoolState
from bcpg_cluster.store.manifest import read_manifest
from bcpg_cluster.watch.observer import Observer, Observers, SilentObserver

CALLS = [name for name, member in vars(Observer).items() if inspect.isfunction(member) and not name.startswith("_")]


class Listener(SilentObserver):
    """Notes every call."""

    def __init__(self, heard: list[tuple[Any, ...]]) -> None:
        for name in CALLS:
            setattr(self, name, lambda *args, name=name: heard.append((name, *args)))


@pytest.mark.parametrize("name", CALLS)
def test_every_call_reaches_every_listener_in_order(name: str):
    heard: list[list[tuple[Any, ...]]] = [[], []]
    number = len(inspect.signature(getattr(Observer, name)).parameters) - 1
    getattr(Observers([Listener(heard[0]), SilentObserver(), Listener(heard[1])]), name)(*range(number))
    assert heard == [[(name, *range(number))]] * 2


def test_a_pool_counts_its_members_by_state():
    members = tuple(MemberState(f"p/{n}", state, 0, 0.0) for n, state in enumerate(["ready", "starting", "ready"]))
    state = PoolState("p", 3, 1, 4, "config", 0, 0, 0.0, 0.0, members, {})
    assert [state.count(name) for name in ("ready", "starting", "draining")] == [2, 1, 0]


def test_a_run_tells_all_it_does(tmp_path: Path, make_config: Callable[..., Any], run_rounds: Callable[..., Any]):
    heard: list[tuple[Any, ...]] = []
    small = {"evaluate": {"num_prompts": 6}, "prompts": {"per_round": 6}}
    run_rounds(tmp_path / "run", make_config(**small), 2, Listener(heard))
    told: dict[str, list[tuple[Any, ...]]] = {name: [call[1:] for call in heard if call[0] == name] for name in CALLS}
    state = read_manifest(tmp_path / "run")
    accepted = {(r.round, r.table, r.shard, r.attempt) for of_table in state.shards.values() for r in of_table.values()}
    prompts = {key for key in accepted if key[1] in ("prompts", "eval_prompts")}  # written by the run itself
    assert {(r.round, r.table, r.shard, r.attempt) for _, _, r in told["receipt"]} == accepted - prompts
    assert {stage for _, stage, r in told["receipt"] if r.table == "verdicts.llm"} == {"judge.llm"}
    for round_ in (1, 2):
        steps = [step for at, step in told["train_step"] if at == round_]
        assert [step["step"] for step in steps] == list(range(steps[-1]["num_steps"]))
        assert state.pushes[round_].items() >= dict(told["push"])[round_].items()
    assert [round_ for round_, _ in told["report"]] == [0, 1, 2]
    names = [pool.name for pool in told["pools"][0][0]]
    assert names == ["rollout", "cpu", "trainer"]
