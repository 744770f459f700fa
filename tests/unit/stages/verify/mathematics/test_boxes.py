"""Which boxes of a response are its answer."""

from __future__ import annotations

import pytest

from bcpg_cluster.stages.verify.mathematics.boxes import answer_boxes, find_boxes, is_list_between, without_placeholders


def contents(text: str) -> list[str | None]:
    return [box.content for box in answer_boxes(text)]


def test_boxes_are_found_with_their_braces_balanced():
    text = r"\boxed{\frac{1}{2}} \fbox{a\}b} \boxed {c} \boxed 12 \boxed{\boxed{3}} in \boxed and \boxedx{4} \boxed{5"
    found = [box.content for box in find_boxes(text)]
    assert found == [r"\frac{1}{2}", r"a\}b", "c", "12", r"\boxed{3}", None]


def test_a_box_says_where_it_stands():
    text = r"so \boxed{12}."
    (box,) = find_boxes(text)
    assert text[box.start : box.end] == r"\boxed{12}"


def test_no_box_no_answer():
    assert contents("it is 12") == []
    assert contents("") == []


@pytest.mark.parametrize(
    "between",
    [
        " and ",
        ", ",
        r"$ and $",
        r"\), \(",
        "$ and $y = ",
        "\n",
        "\n(b) ",
        "\n2. ",
        r" \text{ and } ",
        ", the other root is ",
        "和",
        " oder ",
        r"$; $x_2 = ",
        " & ",
    ],
)
def test_boxes_of_one_list(between: str):
    assert is_list_between(between)
    assert contents(rf"\boxed{{3}}{between}\boxed{{5}}") == ["3", "5"]


@pytest.mark.parametrize(
    "between",
    [
        ". Wait. ",
        ", no: ",
        "? ",
        ". ",
        " = ",
        r" \approx ",
        ", that is ",
        ", i.e. ",
        ", so ",
        " or rather ",
        "\n\nLet me check.\n\n",
        " hmm, ",
        ", which counts the corner twice; the value is ",
        "。",
        "，等等，",
        ", and after a long look at all of the cases again, from the first one to the last one, ",
        r" \to ",
        " -> ",
    ],
)
def test_a_box_that_takes_the_one_before_it_back(between: str):
    assert not is_list_between(between)
    assert contents(rf"\boxed{{3}}{between}\boxed{{5}}") == ["5"]


def test_a_list_reaches_back_to_where_an_answer_was_withdrawn():
    text = r"\boxed{1}. No! The roots are \boxed{3}, \boxed{4} and \boxed{5}."
    assert contents(text) == ["3", "4", "5"]


def test_an_unfinished_or_empty_last_box_is_the_answer_that_is_not_there():
    assert contents(r"\boxed{12}. Better: \boxed{13") == [None]
    assert contents(r"\boxed{12} and \boxed{}") == [""]
    assert contents(r"\boxed{} and \boxed{12}") == ["12"]


@pytest.mark.parametrize(
    "placeholder", ["answer", r"\text{your answer}", "[answer]", "...", r"\ldots", "Final Answer", r"\text{answer}."]
)
def test_an_echo_of_the_instruction_is_no_box(placeholder: str):
    echo = rf"\boxed{{{placeholder}}}"
    assert contents(rf"I put it in {echo}: \boxed{{12}}") == ["12"]
    assert contents(rf"\boxed{{12}} (in {echo}, as asked)") == ["12"]
    assert contents(rf"I put it in {echo}: 12") == []
    assert without_placeholders(f"a{echo}b") == "ab"


def test_the_time_for_many_boxes_without_an_end_grows_with_their_number():
    assert contents(r"\boxed{" * 20_000) == [None]  # minutes, were each searched to the end of the text
