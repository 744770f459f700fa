"""What perturbations do to a judge: counted by hand, with intervals that keep solutions together."""

from __future__ import annotations

import json
import random

import pytest

from bcpg_cluster.stages.judge.stress.perturbed import Effect
from bcpg_cluster.watch.report.judge_stress import StressedSolution, stress_facts

SAME, WRONG, UNKNOWN = Effect.SAME, Effect.WRONG, Effect.UNKNOWN


def kept(truth, before, after, **scores) -> StressedSolution:
    return StressedSolution([SAME] * len(truth), truth, truth, before, after, **scores)


def test_flips_and_changes_by_hand():
    facts = stress_facts(
        [
            kept([1, 1, 0], [1, 1, 0], [1, 0, 1]),
            kept([1, None, 0, 1], [0, 1, 0, None], [1, 1, 0, 1]),
            kept([0], [1], [None]),
        ]
    )
    assert (facts["num_solutions"], facts["num_steps"], facts["num_lost"], facts["num_changed"]) == (3, 6, 1, 0)
    assert facts["flips"]["mean"] == 3 / 6
    assert (facts["to_wrong"]["mean"], facts["to_right"]["mean"]) == (1 / 6, 2 / 6)
    # before: right is said of 2 right steps and 1 wrong one; after, of 3 right ones and 1 wrong one; 4 steps are right
    assert facts["precision"]["mean"] == pytest.approx(3 / 4 - 2 / 3)
    assert facts["recall"]["mean"] == pytest.approx(3 / 4 - 2 / 4)
    assert facts["caught"] is None
    assert facts["score"] is None
    assert json.loads(json.dumps(facts)) == facts


def test_a_step_made_wrong_counts_as_that_and_what_follows_counts_nowhere():
    one = StressedSolution([SAME, WRONG, UNKNOWN], [1, 1, 1], [1, 0, None], [1, 1, 1], [1, 1, 0])
    two = StressedSolution([WRONG, UNKNOWN], [1, 0], [0, None], [1, 0], [0, 1])
    facts = stress_facts([one, two])
    assert (facts["num_steps"], facts["flips"]["mean"]) == (1, 0.0)
    assert (facts["num_changed"], facts["caught"]["mean"]) == (2, 0.5)
    # over the three steps of known truth: before, all 3 are right and called so; after, 1 right of 2 called so
    assert facts["precision"]["mean"] == pytest.approx(1 / 2 - 1)
    assert facts["recall"]["mean"] == 0.0


def test_scores_rise_apart_on_right_and_wrong_steps():
    facts = stress_facts(
        [
            kept([1, 0, None], [1, 0, 1], [1, 1, 1], scores_before=[0.9, 0.2, 0.5], scores_after=[0.8, 0.7, 0.6]),
            kept([0], [0], [0], scores_before=[0.1], scores_after=[None]),
        ]
    )
    assert facts["score"]["mean"] == pytest.approx((-0.1 + 0.5 + 0.1) / 3)
    assert facts["score_right"]["mean"] == pytest.approx(-0.1)
    assert facts["score_wrong"]["mean"] == pytest.approx(0.5)


def test_intervals_are_seeded_and_treat_a_solution_as_one():
    """Ten steps that flip together are one piece of evidence: the interval is as wide as that of one step a solution."""
    draw = random.Random(0)
    flipped = [draw.random() < 0.3 for _ in range(60)]
    single = [kept([1], [1], [int(not flip)]) for flip in flipped]
    tenfold = [kept([1] * 10, [1] * 10, [int(not flip)] * 10) for flip in flipped]
    narrow = stress_facts(single, seed=3)["flips"]
    assert narrow == stress_facts(tenfold, seed=3)["flips"]
    assert narrow != stress_facts(single, seed=4)["flips"]
    assert narrow["low"] < narrow["mean"] < narrow["high"]
    share = sum(flipped) / 60
    expected = 1.96 * (share * (1 - share) / 60) ** 0.5
    assert (narrow["high"] - narrow["low"]) / 2 == pytest.approx(expected, rel=0.15)


def test_the_interval_covers_the_true_rate_as_often_as_it_says():
    """100 draws of 40 solutions whose steps flip at a rate of their own: a 95 % interval misses the mean rate in about 5 %."""
    draw, covered = random.Random(7), 0
    for number in range(100):
        solutions = []
        for _ in range(40):
            rate = draw.choice([0.1, 0.5])
            after = [int(draw.random() >= rate) for _ in range(5)]
            solutions.append(kept([1] * 5, [1] * 5, after))
        flips = stress_facts(solutions, seed=number)["flips"]
        covered += flips["low"] <= 0.3 <= flips["high"]
    assert 0.88 <= covered / 100 <= 1.0


def test_all_or_nothing_has_the_exact_bound_of_its_solutions():
    none = stress_facts([kept([1, 1], [1, 1], [1, 1])] * 20)["flips"]
    assert (none["mean"], none["low"]) == (0.0, 0.0)
    assert none["high"] == pytest.approx(1 - 0.025 ** (1 / 20))
    every = stress_facts([kept([1, 1], [1, 1], [0, 0])] * 20)["flips"]
    assert (every["mean"], every["high"]) == (1.0, 1.0)
    assert every["low"] == pytest.approx(0.025 ** (1 / 20))


def test_nothing_to_measure_is_said_so():
    assert stress_facts([])["flips"] is None
    assert stress_facts([])["num_solutions"] == 0
    lone = stress_facts([kept([1, 1], [1, 1], [0, 1])])
    assert lone["flips"] == {"mean": 0.5, "low": None, "high": None, "n": 1}
    silent = stress_facts([kept([1, 0], [None, None], [None, None])] * 3)
    assert silent["flips"] is silent["precision"] is None
    assert silent["recall"]["mean"] == 0.0
