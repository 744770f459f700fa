"""report/round_report.py: the numbers of a round, by hand."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest

from bcpg_cluster.errors import StoreError
from bcpg_cluster.records import GREEDY_SAMPLE, Outcome, OutcomeStatus, Receipt, SampleId
from bcpg_cluster.stages.weigh.counts import WeighCounts
from bcpg_cluster.store.faults import FaultEvent, FaultKind
from bcpg_cluster.store.reports import AccuracyReport, Estimate, RightSteps, RoundReport, SampleAccount, UnitQuality
from bcpg_cluster.watch.report.accuracy import agreement, cohens_kappa, label_quality
from bcpg_cluster.watch.report.round_report import (
    accuracy_report,
    change,
    conservation,
    fault_report,
    judge_account,
    judge_report,
    rates,
    right_step_report,
    total,
)


def outcomes(rewards: dict[str, list[float | None]], greedy: dict[str, float | None] | None = None) -> Any:
    found = {}
    for prompt, of_prompt in rewards.items():
        for sample, reward in [*enumerate(of_prompt), (GREEDY_SAMPLE, (greedy or {}).get(prompt, -1))]:
            if reward == -1:
                continue
            status = OutcomeStatus.ENGINE_LOST if reward is None else OutcomeStatus.VERIFIED
            found[SampleId(1, prompt, sample)] = Outcome(SampleId(1, prompt, sample), status, reward, None)
    return found


def test_accuracy_by_hand():
    rewards = {"a": [1.0, 1.0, 0.0, 0.0], "b": [1.0] * 4, "c": [0.0] * 4}
    report = accuracy_report(outcomes(rewards, {"a": 1.0, "b": 1.0, "c": 0.0}))
    assert report.accuracy == pytest.approx(0.5)
    assert report.stderr == pytest.approx(0.5 / math.sqrt(3))  # deviation of (0.5, 1, 0) is 0.5
    assert report.sampling_stderr == pytest.approx(math.sqrt(0.25 / 4) / 3)
    assert report.accuracy_greedy == pytest.approx(2 / 3)
    assert (report.num_problems, report.samples_per_problem, report.unverified) == (3, 4, 0)
    # pass@2 of a: 1 - C(2,2)/C(4,2) = 5/6
    assert report.pass_at_k["2"].mean == pytest.approx((5 / 6 + 1 + 0) / 3)
    assert report.pass_at_k["4"].mean == pytest.approx(2 / 3)
    assert list(report.pass_at_k) == ["1", "2", "4"]
    assert report.per_problem == {"a": (0.5, 1.0), "b": (1.0, 1.0), "c": (0.0, 0.0)}
    json.dumps(report.plain(), allow_nan=False)


def test_samples_without_a_reward_are_left_out_and_counted():
    report = accuracy_report(outcomes({"a": [1.0, None], "b": [None, None], "c": [0.0, 0.0]}, {"a": None, "c": 1.0}))
    assert report.unverified == 4
    assert report.num_problems == 2
    assert report.accuracy == pytest.approx(0.5)
    assert report.samples_per_problem == 1
    assert report.per_problem == {"a": (1.0, None), "c": (0.0, 1.0)}


def test_nothing_verified_gives_no_number_instead_of_zero():
    report = accuracy_report(outcomes({"a": [None, None]}))
    assert report.accuracy is None and "accuracy" not in report.plain()
    assert report.accuracy_greedy is None
    assert report.per_problem == {}
    assert change(report, report) == {}


def test_changes_are_paired():
    before = AccuracyReport.read({"per_problem": {"a": [0.5, 0.0], "b": [0.0, 1.0]}})
    after = AccuracyReport.read({"per_problem": {"a": [1.0, 1.0], "b": [0.25, 1.0]}})
    result = change(before, after)
    assert result["accuracy"].mean == pytest.approx(0.375)
    assert result["accuracy"].stderr == pytest.approx(0.125)  # of (0.5, 0.25)
    assert result["accuracy_greedy"].mean == pytest.approx(0.5)


def test_changes_are_over_the_problems_both_have():
    before = AccuracyReport.read({"per_problem": {"a": [0.5, None], "b": [0.0, 1.0]}})
    after = AccuracyReport.read({"per_problem": {"a": [1.0, 1.0], "c": [1.0, 1.0]}})
    assert change(before, after) == {"accuracy": Estimate(mean=0.5, stderr=None)}


def test_conservation():
    counts = {"asked": 10.0, "kept": 4.0, "dropped.all_correct": 5.0, "dropped.unverified": 1.0, "dropped.empty": 0.0}
    assert conservation(WeighCounts.read(counts)) == SampleAccount(
        asked=10, kept=4, dropped={"all_correct": 5, "unverified": 1}
    )
    with pytest.raises(StoreError, match="do not add up: asked 11, kept 4"):
        conservation(WeighCounts.read({**counts, "asked": 11.0}))
    assert conservation(WeighCounts()) == SampleAccount(asked=0, kept=0, dropped={})


def test_totals_add_up_over_shards():
    receipts = [
        Receipt("t", 1, shard, "a", "p", 1, 1, "c", 0.0, metrics)
        for shard, metrics in enumerate([{"x": 1.0, "y": 2.0}, {"x": 3.0}, {}])
    ]
    assert total(receipts) == {"x": 4.0, "y": 2.0}
    assert total([]) == {}


def test_judge_quality_is_what_the_method_says():
    """The report's counts and ``watch.report.accuracy`` must agree on the same labels."""
    truth = [1, 1, 1, 0, 0, 1]
    said: list[int | None] = [1, 0, None, 1, 0, 1]
    tokens = [3, 5, 7, 2, 4, 1]
    word = {1: "right", 0: "wrong", None: "none"}
    counts: dict[str, float] = {}
    for label, true, size in zip(said, truth, tokens, strict=True):
        for unit, mass in (("steps", 1), ("tokens", size)):
            key = f"quality.llm.truth.{word[true]}.{word[label]}.{unit}"
            counts[key] = counts.get(key, 0.0) + mass
    quality = judge_report(WeighCounts.read(counts), ["llm"], ["truth"]).quality["llm"]["truth"]
    for unit, weights in (("steps", None), ("tokens", tokens)):
        expected = label_quality(said, truth, weights)
        assert getattr(quality, unit).precision == pytest.approx(expected.precision)
        assert getattr(quality, unit).recall == pytest.approx(expected.recall)
        assert getattr(quality, unit).true_share == pytest.approx(expected.true_share)
        assert getattr(quality, unit).count == expected.total


def test_agreement_is_what_the_method_says():
    first: list[int | None] = [1, 1, 0, 0, 1, None, 1]
    second: list[int | None] = [1, 0, 0, 1, 1, 1, None]
    word = {1: "right", 0: "wrong", None: "none"}
    counts: dict[str, float] = {}
    for a, b in zip(first, second, strict=True):
        counts[f"pair.x+y.{word[a]}.{word[b]}"] = counts.get(f"pair.x+y.{word[a]}.{word[b]}", 0.0) + 1
    found = judge_report(WeighCounts.read(counts), ["x", "y"], []).agreement["x+y"]
    assert found.agreement == pytest.approx(agreement(first, second))
    assert found.kappa == pytest.approx(cohens_kappa(first, second))
    assert found.steps == 5


def test_judges_about_whom_nothing_is_known():
    report = judge_report(WeighCounts.read({"abstained.llm.timeout": 3.0}), ["llm", "prm"], ["truth"])
    assert report.quality["llm"]["truth"].tokens == UnitQuality(precision=None, recall=None, true_share=None, count=0.0)
    assert report.agreement["llm+prm"].kappa is None
    assert report.abstained == {"llm.timeout": 3}


def test_right_steps_by_hand():
    name = "right_steps.truth"
    counts = {f"{name}.answers": 4.0, f"{name}.with_right": 3.0, f"{name}.prefix_shares": 1.0, f"{name}.tokens": 10.0}
    found = right_step_report(WeighCounts.read(counts | {f"{name}.uncertain": 2.0}))
    assert found == {"truth": RightSteps(uncertain_share=0.2, answers_share=0.75, prefix_share=0.25)}
    assert right_step_report(WeighCounts.read({"tokens.wrong": 8.0})) == {}  # weighed before these were counted


def test_a_report_from_before_gradient_mass_was_counted():
    old = RoundReport.read({"round": 1, "mined_share": 0.25})
    assert (old.mined_gradient_share, old.uncertain_right_share, old.right_steps) == (None, None, {})
    assert old.plain() == {"round": 1, "mined_share": 0.25}


def test_rates():
    totals = {"generate": {"tokens": 100.0}, "verify": {"samples": 4.0}, "segment": {"tokens": 30.0}}
    assert rates(totals, {"generate": 2.0, "verify": 1.0, "segment": 0.0, "data": 5.0}) == {"generate": 50.0}


def test_a_judges_account_by_hand():
    spent = {"judge.calls": 10.0, "judge.calls.stored": 4.0, "judge.retries": 3.0, "judge.prompt_tokens": 600.0}
    spent |= {"judge.prompt_tokens.cached": 100.0, "judge.answer_tokens": 50.0, "status.judged": 30.0}
    account = {
        "calls": 10.0, "stored": 4.0, "uncounted": 0.0, "repair": 0.0, "repaired": 0.0, "retries": 3.0,
        "prompt_tokens": 600.0, "cached_tokens": 100.0, "answer_tokens": 50.0,
    }  # fmt: skip
    assert judge_account(spent) == account
    assert judge_account(spent | {"judge.cost": 0.0}) == account | {"cost": 0.0}  # free, not unknown
    assert judge_account({"status.judged": 30.0, "tokens": 5.0}) is None  # fakes keep no account


def test_what_a_cascade_saved_by_hand():
    spent = {"judge.calls": 10.0, "judge.calls.stored": 4.0, "judge.calls.uncounted": 1.0, "judge.answer_tokens": 50.0}
    saved = judge_account(spent | {"judge.calls.not_made": 30.0, "judge.prompt_tokens.not_sent": 900.0})
    assert saved is not None
    assert (saved["not_made"], saved["saved_tokens"]) == (30.0, 900.0 + 30 * 50 / 5)  # five answers were counted
    nothing = judge_account({"judge.calls.not_made": 2.0, "judge.prompt_tokens.not_sent": 70.0})
    assert nothing is not None and (nothing["calls"], nothing["saved_tokens"]) == (0.0, 70.0)


def test_a_rounds_faults_are_counted_by_kind_and_those_left_out_are_named():
    faults = [
        FaultEvent(FaultKind.REQUEUE, "judge.llm round 1 shard 3", "worker died", num_times=12),
        FaultEvent(FaultKind.QUARANTINED, "p7/2 in judge.llm", "worker died", "left out"),
        FaultEvent(FaultKind.QUARANTINED, "p9/0 in verify", "worker died"),
    ]
    report = fault_report(faults)
    assert report.counts == {"quarantined": 2, "requeue": 12}
    assert report.worst == "quarantined: p7/2 in judge.llm: worker died; left out"
    assert report.quarantined == ["p7/2 in judge.llm", "p9/0 in verify"]
