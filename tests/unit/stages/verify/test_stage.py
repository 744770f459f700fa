"""stages/verify/stage.py on one shard of hand-made rows."""

from __future__ import annotations

import threading

from bcpg_cluster.records import (
    Outcome,
    OutcomeStatus,
    Rollout,
    SampleId,
    StopReason,
)
from bcpg_cluster.stages.verify.exact import ExactVerifier
from bcpg_cluster.stages.verify.protocol import Verification
from bcpg_cluster.stages.verify.stage import verify
from bcpg_cluster.store.rows import (
    outcomes_from,
    prompt_row,
)
from tests.unit.stages.rows import PROMPTS, job, rollout, rollout_rows


def run_verify(*rollouts: Rollout) -> tuple[dict[SampleId, Outcome], dict[str, float]]:
    tables = {"prompts": list(map(prompt_row, PROMPTS)), "rollouts": rollout_rows(*rollouts)}
    verifier = ExactVerifier(r"answer (\S+)", True)
    result = verify(tables, job(), verifier=verifier, prompts_table="prompts", rollouts_table="rollouts")
    return outcomes_from(result.rows), result.metrics


def test_verify_by_hand():
    outcomes, metrics = run_verify(
        rollout("a", 0, "1+1=2\nanswer 3"),
        rollout("a", 1, "answer 4"),
        rollout("a", 2, "I do not know"),
        rollout("a", 3, "1+1=2\n1+1=2\n", StopReason.LENGTH),
        rollout("a", 4, "answer 3", StopReason.ABORTED),
        rollout("b", 0, "answer 9.0"),
        rollout("b", 1, ""),
    )
    assert [(o.status, o.reward) for o in outcomes.values()] == [
        (OutcomeStatus.VERIFIED, 1.0),
        (OutcomeStatus.VERIFIED, 0.0),
        (OutcomeStatus.NO_ANSWER, 0.0),
        (OutcomeStatus.TRUNCATED, 0.0),
        (OutcomeStatus.ENGINE_LOST, None),  # even a right answer of an aborted sample carries no reward
        (OutcomeStatus.VERIFIED, 1.0),
        (OutcomeStatus.NO_ANSWER, 0.0),
    ]
    assert metrics == {
        "status.verified": 3.0, "status.no_answer": 2.0, "status.truncated": 1.0, "status.engine_lost": 1.0,
        "samples": 7.0, "rewards": 2.0, "unparsed": 0.0, "tokens": 70.0,  # 65 characters and five end tokens
    }  # fmt: skip


class Reads:
    """A verifier that says of each response what the test says."""

    def __init__(self, *said: Verification) -> None:
        self.said = list(said)

    def verify(self, response: str, gold: str, stop_reason: StopReason) -> Verification:
        return self.said.pop(0)

    def check_gold(self, gold: str) -> None:
        pass

    def close(self) -> None:
        pass


def test_verify_counts_what_could_not_be_parsed_and_keeps_failures_apart():
    verifier = Reads(
        Verification(OutcomeStatus.VERIFIED, 0.0, "???", is_unparsed=True),
        Verification(OutcomeStatus.VERIFIED, 1.0, "3"),
        Verification(OutcomeStatus.VERIFIER_ERROR, None),
    )
    tables = {
        "prompts": list(map(prompt_row, PROMPTS)),
        "rollouts": rollout_rows(*(rollout("a", n, "x") for n in range(3))),
    }
    result = verify(tables, job(), verifier=verifier, prompts_table="prompts", rollouts_table="rollouts")
    assert [outcome.reward for outcome in outcomes_from(result.rows).values()] == [0.0, 1.0, None]
    assert result.metrics == {
        "status.verified": 2.0, "status.verifier_error": 1.0, "samples": 3.0, "unparsed": 1.0, "rewards": 1.0, "tokens": 6.0,
    }  # fmt: skip


def test_verify_asks_side_by_side_and_keeps_the_order():
    """Two answers are under way at once (the barrier opens for no fewer), and every outcome stands by its own rollout."""
    both = threading.Barrier(2, timeout=60)

    class Waits(Reads):
        def verify(self, response: str, gold: str, stop_reason: StopReason) -> Verification:
            both.wait()
            return Verification(OutcomeStatus.VERIFIED, float(response == "right"), response)

    texts = ["right", "wrong", "wrong", "right", "right", "wrong"]
    tables = {
        "prompts": list(map(prompt_row, PROMPTS)),
        "rollouts": rollout_rows(*(rollout("a", n, text) for n, text in enumerate(texts))),
    }
    result = verify(tables, job(), verifier=Waits(), prompts_table="prompts", rollouts_table="rollouts", num_threads=2)
    assert [outcome.extracted for outcome in outcomes_from(result.rows).values()] == texts
