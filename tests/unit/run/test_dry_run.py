"""dry_run.py: every part once, nothing left behind, and what a round would take."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bcpg_cluster.config.run import Config
from bcpg_cluster.run.dry_run import parts_of, small_config, uneven_rewards
from bcpg_cluster.store.reports import PushFacts, RoundReport, SampleAccount, TrainingSummary


def outcome(prompt_id: str, sample: int, reward: float | None) -> dict[str, Any]:
    status = "verifier_error" if reward is None else "verified"
    return {"round": 1, "prompt_id": prompt_id, "sample": sample, "reward": reward, "status": status}


def test_every_problem_gets_a_right_and_a_wrong_response():
    mixed = [outcome("a", 0, 0.0), outcome("a", 1, 1.0)]
    wrong = [outcome("b", 0, 0.0), outcome("b", 1, 0.0), outcome("b", 2, None)]
    assert uneven_rewards([*mixed, *wrong]) == [
        *mixed, outcome("b", 0, 1.0), outcome("b", 1, 0.0), outcome("b", 2, None),
    ]  # fmt: skip
    assert wrong[0]["reward"] == 0.0  # the rows given are as they were
    failed = uneven_rewards([outcome("c", n, None) for n in range(2)])
    assert [row["reward"] for row in failed] == [1.0, 0.0]


def test_the_small_round_has_the_same_parts(make_config: Callable[..., Config]):
    config = make_config(pools={"rollout": {"members": 3, "max": 9}}, generate={"group_size": 16})
    small = small_config(config)
    assert (small.prompts.per_round, small.generate.group_size, small.pool("rollout").members) == (2, 4, 1)
    assert (small.judges, small.verify, small.objective) == (config.judges, config.verify, config.objective)


def test_a_round_takes_as_many_times_as_long_as_it_has_pieces(make_config: Callable[..., Config]):
    """8 responses to 2 problems here; 12 problems with 8 responses in the round, on two engines; 32 test problems."""
    config = make_config(pools={"rollout": {"members": 2}}, train={"batch_sequences": 16})
    push = PushFacts(
        method="gloo", why="", seconds=1, num_members=1, worst_nats=0, separation_nats=1, cached_prefix_nats=None,
        canaries="passed", proof_s=1,
    )  # fmt: skip
    report = RoundReport(
        round=1, train=TrainingSummary(steps=1), push=push, samples=SampleAccount(asked=8, kept=8, dropped={}),
        verdicts={"judge.llm": {"judge.calls": 5.0, "judge.calls.not_made": 2.0, "judge.cost": 0.5}},
    )  # fmt: skip
    took = {"generate": 2.0, "judge.llm": 3.0, "train": 4.0, "push": 0.5, "evaluate": 1.0}
    parts = {part.name: part for part in parts_of(config, report, took, num_test=32)}
    assert parts["generate"].round_seconds == 2.0 * 12 / 2  # 96 responses for 8, by two engines
    assert parts["judge.llm"].round_seconds == 3.0 * 12
    assert parts["judge.llm"].work == "5 calls, 2 not needed"
    assert parts["train"].round_seconds == 4.0 * 6 * 2  # 96 / 16 steps, each of 16 rows for 8
    assert parts["push"].round_seconds == 0.5
    assert parts["evaluate"].round_seconds == 1.0 * (32 * 5) / (2 * 2) / 2  # 4 samples and a greedy one; 1 and 1 here
    assert "weigh" not in parts  # was not timed


def test_dry_run_on_the_command_line_leaves_nothing(
    bcpg: Callable[..., Any], config_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    ended = bcpg("iterate", "-c", config_file, "--inline", "--dry-run", "--json")
    assert ended.code == 0, ended.err
    found = json.loads(ended.out)
    assert {
        "generate",
        "verify",
        "segment",
        "judge.llm",
        "judge.prm",
        "weigh",
        "train",
        "push",
        "proof",
        "evaluate",
    } <= {part["name"] for part in found["parts"]}
    assert found["report"]["train"]["steps"] == 1
    assert found["round_cost"] is None
    assert found["round_seconds"] > 0
    assert list(tmp_path.iterdir()) == []
    shown = bcpg("iterate", "-c", config_file, "--inline", "--dry-run")
    assert "every part works" in shown.out
