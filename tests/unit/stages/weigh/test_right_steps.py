"""weigh/right_steps.py: gradient mass, and what right steps of wrong answers are like, by hand."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bcpg_cluster.records import Step
from bcpg_cluster.stages.weigh.right_steps import RightStepCounts, gradient_masses, num_steps_before_a_mistake
from bcpg_cluster.stages.weigh.weights import mined_steps

STEPS = [Step(0, 2, "ab"), Step(2, 5, "cde"), Step(5, 6, "f"), Step(6, 10, "ghij")]
MASSES = (0.5, 0.05, 0.11, 0.1, 0.0, 0.9, 0.2, 0.2, 0.2, 0.2)


def test_a_token_weighs_what_its_probability_lacks_to_one():
    probabilities = [1.0, 0.75, 0.5, 1e-9]
    assert gradient_masses(map(math.log, probabilities)) == pytest.approx([0.0, 0.25, 0.5, 1 - 1e-9])
    assert gradient_masses([1e-7, -math.inf]) == (0.0, 1.0)  # rounding above 0 is no negative mass
    assert gradient_masses([]) == ()


@pytest.mark.parametrize(
    ("labels", "number"),
    [
        ([1, 1, 0, 1], 2),
        ([0, 1, 1, 1], 0),  # first wrong
        ([1, 1, 1, 1], 3),  # all right but the last, which states the wrong answer
        ([1, None, 1, 0], 1),  # a silent judge calls nothing right
        ([1], 0),
        ([], 0),
    ],
)
def test_steps_before_a_mistake(labels: list[int | None], number: int):
    assert num_steps_before_a_mistake(labels) == number


def test_one_answer_by_hand():
    counts = RightStepCounts()
    counts.add(STEPS, [1, 0, 1, 1], MASSES)
    # right: tokens 0, 1 and 5, of them 0 and 5 uncertain; before the mistake: 2 of 10 tokens
    assert counts == RightStepCounts(answers=1, answers_with_right=1, prefix_shares=0.2, tokens=3, uncertain_tokens=2)
    assert (counts.uncertain_share, counts.answers_share, counts.prefix_share) == (pytest.approx(2 / 3), 1.0, 0.2)


def test_shares_are_over_answers_and_tokens():
    counts = RightStepCounts()
    counts.add(STEPS, [1, 1, 0, 0], MASSES)  # 5 tokens, of them 0 and 2 uncertain: 0.1 itself is not above 0.1
    counts.add(STEPS, [0, 1, 1, 0], ())  # log-probs unknown: its tokens count in no share, its steps do
    counts.add(STEPS, [0, 0, 0, 1], MASSES)  # the last is not right
    counts.add([Step(0, 3, "abc")], [1], (0.5, 0.5, 0.5))  # nothing but the answer
    assert counts.uncertain_share == pytest.approx(2 / 5)
    assert counts.answers_share == pytest.approx(2 / 4)
    assert counts.prefix_share == pytest.approx(0.5 / 4)


def test_of_nothing_there_is_no_share():
    empty, only_answer = RightStepCounts(), RightStepCounts()
    assert (empty.uncertain_share, empty.answers_share, empty.prefix_share) == (None, None, None)
    only_answer.add([Step(0, 3, "abc")], [1], (0.5, 0.5, 0.5))
    assert (only_answer.uncertain_share, only_answer.answers_share, only_answer.prefix_share) == (None, 0.0, 0.0)


@given(st.lists(st.integers(0, 1), min_size=1, max_size=12))
def test_the_prefix_share_is_that_of_prefix_mining(labels: list[int]):
    steps = [Step(2 * k, 2 * k + 2, "ab") for k in range(len(labels))]
    counts = RightStepCounts()
    counts.add(steps, labels, [0.5] * (2 * len(labels)))
    assert counts.prefix_share == pytest.approx(sum(mined_steps(labels, "prefix")[:-1]) / len(labels))
