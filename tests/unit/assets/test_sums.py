"""The sums task: questions, and the truth of every step by both rules, worked by hand."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bcpg_cluster.assets.sums.task import ANSWER, CHECK, draw_sum, parse_question, step_truths
from bcpg_cluster.records import StepRule

QUESTION = "17 +25 -8 +46"  # 80


def said(steps: str, rule: StepRule = "propagated", question: str = QUESTION) -> list[str]:
    """The error types of steps that are parted by ``|`` (``/`` is a line break), ``none`` for a right one."""
    truths = step_truths(question, [step.replace("/", "\n") for step in steps.split("|")], rule)
    assert all(truth.is_correct == (truth.error_type == "none") for truth in truths)
    return [truth.error_type for truth in truths]


def test_a_question_reads_back() -> None:
    task = parse_question(QUESTION)
    assert task.question == QUESTION
    assert task.answer == "80"
    assert parse_question("05 -9").answer == "96"


@pytest.mark.parametrize("text", ["", "17", "7 +2", "17 *3", "17 +025", "17 +2 x", "17+25"])
def test_what_is_no_question_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not a sum"):
        parse_question(text)


@given(st.integers(0, 10_000), st.integers(1, 8))
def test_drawn_amounts_differ_and_any_order_gives_the_answer(seed: int, length: int) -> None:
    rng = random.Random(seed)
    task = draw_sum(rng, length, length)
    assert len({term.amount for term in task.terms}) == length
    terms, value, steps = list(task.terms), task.start, []
    rng.shuffle(terms)
    for term in terms:
        result = term.apply(value)
        steps += [term.line(value, result), CHECK + term.inverse.line(result, value)]
        value = result
    steps.append(f"{ANSWER}{task.answer}")
    for rule in ("propagated", "local"):
        assert all(truth.is_correct for truth in step_truths(task.question, steps, rule))


def test_terms_may_come_in_any_order_but_each_once() -> None:
    assert said("17+46=63|63-8=55|55+25=80|answer 80") == ["none"] * 4
    assert said("17+46=63|63+46=09|answer 09") == ["none", "inconsistent_with_earlier", "propagated"]


def test_what_builds_on_a_slip_is_wrong_only_by_the_papers_rule() -> None:
    steps = "17+25=32|32-8=24|24+46=70|answer 70"  # the carry is lost
    assert said(steps) == ["calculation", "propagated", "propagated", "propagated"]
    assert said(steps, "local") == ["calculation", "none", "none", "none"]


def test_an_answer_that_is_not_what_was_written_last_is_wrong_by_both_rules() -> None:
    assert said("17+25=42|42-8=34|34+46=80|answer 70") == [*["none"] * 3, "propagated"]
    assert said("17+25=42|42-8=34|34+46=80|answer 70", "local")[-1] == "inconsistent_with_earlier"
    assert said("17+25=42|answer 42", "local")[-1] == "inconsistent_with_earlier"  # terms are left


def test_a_check_is_right_when_it_is_worked_out_rightly_also_where_it_finds_a_slip() -> None:
    assert said("17+25=32|check 32-25=07") == ["calculation", "none"]
    assert said("17+25=42|check 42-25=27") == ["none", "calculation"]
    assert said("17+25=42|check 42-8=34") == ["none", "inconsistent_with_earlier"]
    assert said("check 42-25=17") == ["inconsistent_with_earlier"]


def test_a_check_of_a_line_that_began_wrong_is_propagated() -> None:
    assert said("17+25=32|32-8=24|check 24+8=32") == ["calculation", "propagated", "propagated"]
    assert said("17+25=32|32-8=24|check 24+8=32", "local") == ["calculation", "none", "none"]


def test_wait_goes_back_to_before_the_line_that_is_doubted() -> None:
    steps = "17+25=32|check 32-25=07|wait/17+25=42|42-8=34|34+46=80|answer 80"
    for rule in ("propagated", "local"):
        assert said(steps, rule) == ["calculation", *["none"] * 5]
    assert said("17+25=42|wait/17+25=32|32-8=24") == ["none", "calculation", "propagated"]


def test_a_doubt_without_a_reason_brings_nothing() -> None:
    for rule in ("propagated", "local"):
        assert said("17+25=42|wait/17+25=42|42-8=34", rule) == ["none", "no_content", "none"]
        assert said("17+25=42|check 42-25=17|wait/17+25=42", rule) == ["none", "none", "no_content"]
        # a check that comes out elsewhere is a reason, also where it is the check that is wrong
        assert said("17+25=42|check 42-25=27|wait/17+25=42", rule) == ["none", "calculation", "none"]


def test_what_is_no_line_of_the_task_says_nothing() -> None:
    assert said("17+25|x|check 1|wait|answer") == [*["no_content"] * 4, "propagated"]
    assert said("answer", "local") == ["no_content"]


def test_a_step_of_several_lines() -> None:
    assert said("17+25=32/32-8=24", "local") == ["calculation"]
    assert said("17+25=32/wait/17+25=42", "local") == ["none"]
    assert said("17+25=42/wait/17+25=42", "local") == ["no_content"]
