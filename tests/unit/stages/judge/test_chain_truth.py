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


# --- by the rule `local`: 17 +25 *3 -8 with a first line of 43 gives 43*3=29 and 29-8=21


def local_truths(steps: list[str], question: str = QUESTION) -> list[tuple[bool, str]]:
    return [(truth.is_correct, truth.error_type) for truth in step_truths(question, steps, "local")]


def test_a_line_worked_out_from_a_wrong_value_is_right_by_itself() -> None:
    steps = ["17+25=43", "43*3=29", "29-8=21", "answer 21"]
    assert truths(steps) == [(False, "calculation"), *[(False, "propagated")] * 3]
    assert local_truths(steps) == [(False, "calculation"), OK, OK, OK]


def test_errors_of_a_line_itself_are_wrong_by_either_rule() -> None:
    assert local_truths(["17+25=43", "43*3=30", "30-7=23", "hm"]) == [
        (False, "calculation"),
        (False, "calculation"),
        (False, "inconsistent_with_earlier"),
        (False, "no_content"),
    ]


def test_a_line_that_is_done_again_begins_where_it_began() -> None:
    steps = ["17+25=43", "43*3=30", "wait\n43*3=29", "29-8=21"]
    assert local_truths(steps) == [(False, "calculation"), (False, "calculation"), OK, OK]
    assert truths(steps)[2] == (
        False,
        "inconsistent_with_earlier",
    )  # by the other rule it is the 43 that has to be corrected
    assert local_truths(["17+25=43", "wait\n17+25=42", "42*3=26"]) == [(False, "calculation"), OK, OK]
    assert local_truths(["17+25=43", "wait", "17+25=44", "44*3=32"]) == [
        (False, "calculation"),
        (False, "no_content"),
        (False, "calculation"),
        OK,
    ]
    assert local_truths(["wait\nwait\n17+25=42"]) == [OK]


def test_an_answer_is_right_by_itself_where_the_lines_give_it() -> None:
    wrong = (False, "inconsistent_with_earlier")
    assert local_truths(["17+25=42", "42*3=26", "26-8=19", "answer 19"])[-1] == OK
    assert local_truths(["17+25=42", "42*3=26", "26-8=19", "answer 20"])[-1] == wrong
    assert local_truths(["17+25=43", "answer 43"])[-1] == wrong  # the chain is not done
    assert local_truths(["answer"]) == [(False, "no_content")]


def test_a_step_of_several_lines_has_all_their_errors_by_itself() -> None:
    assert local_truths(["17+25=43\n43*3=29"]) == [(False, "calculation")]
    assert local_truths(["17+25=43\nwait\n17+25=42\n42*3=26"]) == [OK]
    assert local_truths(["17+25=42\n\n", ""]) == [OK, (False, "no_content")]


@pytest.mark.parametrize("seed", range(20))
def test_the_two_rules_agree_up_to_the_first_mistake(seed: int) -> None:
    """No step that is right under `propagated` is wrong under `local`; up to the first mistake both say the same."""
    rng = random.Random(seed)
    for _ in range(50):
        chain = draw_chain(rng, 2, 6)
        lines, value = [], chain.start
        for operation in chain.operations:
            after = (operation.apply(value) + rng.choice([0, 0, 0, 1, 50])) % 100
            lines.append(f"{value}{operation.symbol}{operation.operand}={after}")
            redone = operation.apply(value)
            if rng.random() < 0.3:
                lines.append(f"wait\n{value}{operation.symbol}{operation.operand}={redone}")
                after = redone
            value = rng.choice([after, after, after, 7])
        lines.append(f"answer {value}")
        propagated, local = truths(lines, chain.question), local_truths(lines, chain.question)
        first = next((i for i, (is_right, _) in enumerate(propagated) if not is_right), len(lines) - 1)
        assert local[:first] == propagated[:first]
        assert all(by_itself or not is_right for (is_right, _), (by_itself, _) in zip(propagated, local, strict=True))
        assert all(error != "propagated" and (error == "none") == is_right for is_right, error in local)
