"""The truth of the embedded task, worked by hand.

The chain of most cases: 17 +25 *3 -8, whose right lines are 17+25=42, 42*3=26 (126 mod 100), 26-8=18.
"""

from __future__ import annotations

import random

import pytest

from bcpg_cluster.assets.chain import Chain, Operation, draw_chain, parse_question, step_truths

QUESTION = "17 +25 *3 -8"
OK = (True, "none")


def truths(steps: list[str], question: str = QUESTION) -> list[tuple[bool, str]]:
    return [(truth.is_correct, truth.error_type) for truth in step_truths(question, steps)]


def test_a_chain_and_its_solution() -> None:
    chain = parse_question(QUESTION)
    assert chain == Chain(17, (Operation("+", 25), Operation("*", 3), Operation("-", 8)))
    assert chain.question == QUESTION
    assert chain.values == (17, 42, 26, 18)
    assert chain.answer == "18"
    assert chain.lines == ("17+25=42", "42*3=26", "26-8=18")
    assert chain.solution == "17+25=42\n42*3=26\n26-8=18\nanswer 18"
    assert parse_question("5 -9").values == (5, 96)  # modulo 100, never negative


@pytest.mark.parametrize("text", ["", "17", "x +1", "17 25", "17 +", "17 /2", "What is 2 + 2?", "-3 +4"])
def test_what_is_not_a_chain(text: str) -> None:
    with pytest.raises(ValueError, match="not a"):
        parse_question(text)


def test_drawn_chains_read_back() -> None:
    rng = random.Random(0)
    for _ in range(200):
        chain = draw_chain(rng, 1, 6)
        assert 1 <= len(chain.operations) <= 6
        assert parse_question(chain.question) == chain
        assert truths(chain.solution.split("\n"), chain.question) == [OK] * (len(chain.operations) + 1)


def test_a_right_response() -> None:
    assert truths(["17+25=42", "42*3=26", "26-8=18", "answer 18"]) == [OK] * 4
    assert truths(["17+25=42\n42*3=26\n", "26-8=18\nanswer 18"]) == [OK] * 2  # several lines in a step
    assert truths([]) == []


def test_a_miscalculation_propagates() -> None:
    assert truths(["17+25=42", "42*3=27", "27-8=19", "answer 19"]) == [
        OK,
        (False, "calculation"),
        (False, "propagated"),  # rightly worked out from the wrong 27
        (False, "propagated"),
    ]


def test_a_second_miscalculation_on_a_wrong_value() -> None:
    assert truths(["17+25=43", "43*3=30"]) == [(False, "calculation"), (False, "calculation")]


def test_a_correction_is_right_again() -> None:
    assert truths(["17+25=43", "wait\n17+25=42", "42*3=26", "26-8=18", "answer 18"]) == [
        (False, "calculation"),
        OK,
        OK,
        OK,
        OK,
    ]
    # As steps of their own: the word alone has nothing that can be checked.
    assert truths(["17+25=43", "wait", "17+25=42"]) == [(False, "calculation"), (False, "no_content"), OK]


def test_a_correction_that_fails_again() -> None:
    assert truths(["17+25=43", "wait\n17+25=44", "44*3=32"]) == [
        (False, "calculation"),
        (False, "calculation"),
        (False, "propagated"),
    ]


def test_a_needless_correction_is_right() -> None:
    assert truths(["17+25=42", "wait\n17+25=42", "42*3=26"]) == [OK, OK, OK]


def test_wait_at_the_start_changes_nothing() -> None:
    assert truths(["wait\n17+25=42", "42*3=26"]) == [OK, OK]


def test_operands_from_nowhere() -> None:
    assert truths(["17+25=42", "41*3=23"]) == [OK, (False, "inconsistent_with_earlier")]
    assert truths(["17+25=42", "42*4=68"]) == [OK, (False, "inconsistent_with_earlier")]  # another operation
    assert truths(["17+25=42", "26-8=18"]) == [OK, (False, "inconsistent_with_earlier")]  # a place skipped


def test_going_on_after_the_chain_is_done() -> None:
    assert truths(["17+25=42", "42*3=26", "26-8=18", "18+1=19"])[-1] == (False, "inconsistent_with_earlier")


def test_a_line_after_a_propagated_value_that_hits_the_right_one() -> None:
    # 50 *2 and 0 *2 are both 0 modulo 100, so the chain's own line may follow a wrong value.
    assert truths(["1+49=0", "0*2=0"], "1 +49 *2") == [(False, "calculation"), (False, "propagated")]
    assert truths(["1+49=0", "50*2=0"], "1 +49 *2") == [(False, "calculation"), OK]


def test_what_says_nothing() -> None:
    assert truths(["", "hm", "17+25=", "=42", "17=42"]) == [(False, "no_content")] * 5


def test_the_answer_alone() -> None:
    assert truths(["answer 18"]) == [OK]
    assert truths(["answer 19"]) == [(False, "propagated")]
    assert truths(["answer"]) == [(False, "propagated")]
    assert truths(["answer 018"]) == [(False, "propagated")]


def test_a_step_is_its_last_line() -> None:
    assert truths(["17+25=42\n42*3=27"]) == [(False, "calculation")]
    assert truths(["17+25=43\nwait\n17+25=42"]) == [OK]
