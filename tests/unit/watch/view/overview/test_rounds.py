"""watch.view.overview.rounds: a report's figures as the page shows them, by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from bcpg_cluster.config.run import Config
from bcpg_cluster.records import DropReason
from bcpg_cluster.store.reports import RoundReport
from bcpg_cluster.watch.view.overview.records import AgreementRound, Dropped, Interval, JudgeCalls, JudgeRound
from bcpg_cluster.watch.view.overview.rounds import WHY_DROPPED, interval, round_of

QUALITY = {
    "tokens": {"precision": 0.1, "recall": 0.1, "true_share": 0.5, "count": 100.0},
    "steps": {"precision": 0.8, "recall": 0.4, "true_share": 0.5, "count": 10.0},
}
CONTENT: dict[str, Any] = {
    "round": 1,
    "num_problems": 100,
    "accuracy": 0.5,
    "stderr": 0.1,
    "accuracy_greedy": 0.99,
    "stderr_greedy": 0.01,
    "pass_at_k": {"4": {"mean": 0.9, "stderr": None}},
    "more_tests": {"hard": {"num_problems": 5, "accuracy": 0.2}},
    "samples": {"asked": 10, "kept": 6, "dropped": {"all_wrong": 4, "empty": 0}},
    "mined_share": 0.25,
    "judges": {
        "quality": {"llm": {"truth": QUALITY}},
        "agreement": {"llm+prm": {"agreement": 0.9, "kappa": 0.5, "steps": 10.0}},
        "abstained": {},
    },
    "generate": {"tokens": 123.0},
    "verdicts": {
        "judge.llm": {
            "steps": 12.0, "status.judged": 9.0, "status.timeout": 2.0, "status.unparsable": 1.0, "judge.calls": 5.0,
            "judge.prompt_tokens": 50.0, "judge.answer_tokens": 7.0, "judge.retries": 1.0, "judge.cost": 0.25,
        },
        "judge.prm": {"steps": 12.0, "status.judged": 12.0},
        "judge.truth": {"steps": 12.0, "status.judged": 12.0},
    },
    "seconds": {"generate": 3.0, "round": 10.0},
}  # fmt: skip


@pytest.fixture
def found(make_config: Callable[..., Config]) -> Any:
    return round_of(1, RoundReport.read(CONTENT), "done", [], make_config())


def test_an_interval_is_two_standard_errors_and_stays_a_share():
    assert interval(0.5, 0.1, 100) == Interval(0.5, pytest.approx(0.3040036), pytest.approx(0.6959964), 100)
    assert interval(0.99, 0.01, 9) == Interval(0.99, pytest.approx(0.97040036), 1.0, 9)
    assert interval(0.5, None, 1) == Interval(0.5, None, None, 1)
    assert interval(None, 0.1, 1) is None


def test_accuracy(found: Any):
    assert found.accuracy.sampled.value == 0.5
    assert found.accuracy.pass_at_k == {"4": Interval(0.9, None, None, 100)}
    assert [(test.name, test.sampled, test.greedy) for test in found.accuracy.tests] == [
        ("hard", Interval(0.2, None, None, 5), None)
    ]


def test_samples_add_up_and_say_why(found: Any):
    assert found.asked == found.kept + sum(dropped.num for dropped in found.dropped)
    assert found.dropped == (Dropped("all_wrong", 4, WHY_DROPPED["all_wrong"]),)


def test_every_reason_has_words():
    assert set(WHY_DROPPED) == {str(reason) for reason in DropReason}


def test_a_judge_by_steps_with_what_is_missing_by_status(found: Any):
    llm = found.judges[0]
    # 2 * 0.8 * 0.4 / 1.2
    assert llm == JudgeRound(
        "llm", "truth", 0.8, 0.4, pytest.approx(0.5333333), 10, 12, {"timeout": 2, "unparsable": 1}
    )
    assert found.judges[1] == JudgeRound("prm", None, None, None, None, 0, 12, {})
    assert [judge.judge for judge in found.judges] == ["llm", "prm"]  # the truth itself misses nothing


def test_agreement_counts_the_disputed_steps(found: Any):
    assert found.agreement == (AgreementRound(("llm", "prm"), 0.9, 0.5, 10, 1),)


def test_cost(found: Any):
    assert found.cost.judge_calls == (JudgeCalls("llm", 5, 50, 7, 1),)
    assert (found.cost.round_s, found.cost.money, found.cost.generated_tokens) == (10.0, 0.25, 123)
    assert [(stage.stage, stage.seconds) for stage in found.cost.seconds] == [("generate", 3.0)]


def test_a_round_without_a_report_knows_nothing(make_config: Callable[..., Config]):
    found = round_of(2, None, "under way", [], make_config())
    assert (found.asked, found.mined_token_share, found.push, found.drift, found.judges) == (None, None, None, None, ())
