"""run/dispatch/expected_tokens.py: what earlier receipts say of a shard's answers, and that it decides nothing but the order."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bcpg_cluster.config.run import Config
from bcpg_cluster.prompts.sets import PromptSets
from bcpg_cluster.records import Prompt, Receipt
from bcpg_cluster.run import coordinator, dataflow
from bcpg_cluster.run.dispatch.expected_tokens import expected_tokens
from bcpg_cluster.stages.graph import data_stages, evaluation_stages
from bcpg_cluster.store.journals.state import ManifestState
from tests.chaos.damage import contents_of

STAGES = data_stages({"llm": "judge.llm"})


def sets_of(num_train: int, num_test: int = 4) -> PromptSets:
    return PromptSets(
        [Prompt(f"a{k}", f"a {k}", "1") for k in range(num_train)],
        [Prompt(f"t{k}", f"t {k}", "1") for k in range(num_test)],
    )


def state_of(*accepted: tuple[int, str, int, float]) -> ManifestState:
    state = ManifestState()
    for round_, table, shard, tokens in accepted:
        state.add_receipt(Receipt(table, round_, shard, "a", "p", 2, 10, "c", 0.0, {"tokens": tokens}))
    return state


@pytest.fixture
def four_a_round(make_config: Callable[..., Config]) -> Config:
    """Two shards of two prompts, in the order of the file."""
    return make_config(
        prompts={"per_round": 4, "order": "stated"},
        generate={"prompts_per_shard": 2},
        evaluate={"num_prompts": 4, "prompts_per_shard": 2},
    )


def test_prompts_that_were_answered_are_known_and_others_are_like_them(four_a_round: Config):
    # Round 1 has a0..a3, round 2 has a4 a5 a0 a1: its first shard was never asked.
    state = state_of((1, "rollouts", 0, 100.0), (1, "rollouts", 1, 300.0))
    found = expected_tokens(four_a_round, sets_of(6), state, 2, STAGES)
    assert found == {0: 200.0, 1: 100.0}  # a prompt of round 1 has 50, 50, 150 or 150 tokens: 100 on average


def test_the_latest_answers_count(four_a_round: Config):
    # With four prompts every round asks all.
    state = state_of(
        (1, "rollouts", 0, 100.0), (1, "rollouts", 1, 300.0), (2, "rollouts", 0, 500.0), (2, "rollouts", 1, 200.0)
    )
    assert expected_tokens(four_a_round, sets_of(4), state, 3, STAGES) == {0: 500.0, 1: 200.0}


def test_an_evaluation_knows_the_one_before(four_a_round: Config):
    state = state_of((0, "eval_rollouts", 0, 10.0), (1, "eval_rollouts", 0, 20.0), (1, "eval_rollouts", 1, 60.0))
    sets = sets_of(8)
    assert expected_tokens(four_a_round, sets, state, 2, evaluation_stages()) == {0: 20.0, 1: 60.0}
    assert expected_tokens(four_a_round, sets, state, 0, evaluation_stages()) == {}


def test_tables_may_begin_meanwhile(four_a_round: Config, monkeypatch: pytest.MonkeyPatch):
    """A training in a thread of its own counts its first reference log-probs just then."""
    state = state_of((0, "eval_rollouts", 0, 10.0), (0, "eval_rollouts", 1, 20.0))

    class Growing(str):
        __slots__ = ()

        def __eq__(self, other: object) -> bool:
            state.shards.setdefault((2, f"reference {len(state.shards)}"), {})
            return str.__eq__(self, other)

        __hash__ = str.__hash__

    accepted = {(0, Growing("eval_rollouts")): state.shards[0, "eval_rollouts"]}
    monkeypatch.setattr(state, "shards", accepted)
    sets = sets_of(8)
    assert expected_tokens(four_a_round, sets, state, 1, evaluation_stages()) == {0: 10.0, 1: 20.0}


def test_nothing_is_expected_of_what_nobody_asked_and_of_what_is_done(four_a_round: Config):
    assert expected_tokens(four_a_round, sets_of(8), state_of((1, "rollouts", 0, 100.0)), 2, STAGES) == {}
    judged = tuple(stage for stage in STAGES if stage.name.startswith("judge."))
    assert expected_tokens(four_a_round, sets_of(4), state_of((1, "rollouts", 0, 100.0)), 2, judged) == {}


def test_the_order_changes_no_table_and_no_weights(
    make_config: Callable[..., Config],
    run_rounds: Callable[..., Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    config = make_config(
        prompts={"per_round": 8}, generate={"prompts_per_shard": 2}, evaluate={"num_prompts": 8, "prompts_per_shard": 2}
    )
    begun: list[tuple[str, int]] = []
    run_job = dataflow.run_job

    def noted(member: Any, job: Any, label: str) -> Any:
        if job.stage in ("generate", "evaluate"):
            begun.append((job.stage, job.shard))
        return run_job(member, job, label)

    monkeypatch.setattr(dataflow, "run_job", noted)
    found, orders = [], []
    for name, expected in [("first to last", {}), ("last to first", {k: float(k) for k in range(4)})]:
        monkeypatch.setattr(coordinator, "expected_tokens", lambda *_, expected=expected: expected)
        begun.clear()
        found.append(contents_of(run_rounds(tmp_path / name, config, 1).directory))
        orders.append([shard for stage, shard in begun if stage == "generate"])
    assert orders == [[0, 1, 2, 3], [3, 2, 1, 0]]
    assert found[0] == found[1]
