"""How the default's settings are chosen from runs: by the mean of sampled and greedy after the last round, over the seeds."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest

from bcpg_cluster.comparison.setup import arm_config
from bcpg_cluster.config.run import Config
from bcpg_cluster.run.build.default_config import read_config
from bcpg_cluster.store.reports import RoundReport
from bcpg_cluster.watch.report.comparison_report import ArmResult

BENCHMARKS = Path(__file__).parents[3] / "benchmarks"


@pytest.fixture
def choice(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import default_choice

    return default_choice


def result(arm: str, seed: int, round_: int, sampled: float | None, greedy: float | None) -> ArmResult:
    report = RoundReport.read({"round": round_, "accuracy": sampled, "accuracy_greedy": greedy})
    return ArmResult(arm, seed, round_, "finished", 1e-4, report, "", 6)


def test_the_best_by_both_measures_in_the_last_round_comes_first(choice: ModuleType):
    early = [result("early", 0, 1, 0.9, 0.9), result("early", 0, 2, 0.5, 0.6)]
    late = [result("late", 0, 1, 0.2, 0.2), result("late", 0, 2, 0.6, 0.7)]
    other_seed = [result("late", 1, 1, 0.4, 0.3), result("late", 1, 2, 0.5, 0.8)]
    assert choice.rows([early, late, other_seed])[2:] == [
        "| late | 0, 1 | 30.0, 55.0 | 25.0, 75.0 | 65.0 |",
        "| early | 0 | 90.0, 50.0 | 90.0, 60.0 | 55.0 |",
    ]


def test_a_candidate_that_diverged_is_told_and_has_no_figures(choice: ModuleType):
    good = [result("good", 0, 1, 0.4, 0.6)]
    bad = [ArmResult("bad", 0, 1, "diverged", 1e-3, None, "loss is not finite", 6)]
    assert choice.rows([bad, good])[2:] == ["| good | 0 | 40.0 | 60.0 | 50.0 |", "| bad | | diverged | | |"]


def test_a_run_that_was_not_measured_is_no_zero(choice: ModuleType):
    with pytest.raises(ValueError, match="x, seed 3, round 1 was not measured"):
        choice.score(result("x", 3, 1, 0.5, None))


def test_candidates_are_the_default_but_for_what_they_are_named_by(choice: ModuleType):
    base = read_config("laptop", [], None)

    def settings(config: Config) -> tuple[float, float, float, int]:
        train = config.train
        return config.weigh.beta, train.learning_rate, train.min_learning_rate, train.epochs

    plain = arm_config(base, choice.candidate(-0.5, 3), 0, None)
    assert settings(plain) == (-0.5, base.train.learning_rate, base.train.min_learning_rate, base.train.epochs)
    for tuned in choice.OTHERS:
        arm, rate = choice.candidate(0.0, 3, tuned), tuned.learning_rate
        assert arm.tuned_as == str(tuned)
        assert settings(arm_config(base, arm, 0, tuned)) == (0.0, rate, pytest.approx(rate / 10), tuned.epochs)
