"""columns.py: which column is the question, which the answer, which the id."""

from __future__ import annotations

from typing import Any

import pytest

from bcpg_cluster.errors import DataError
from bcpg_cluster.new_config.columns import guess_columns


def guessed(*rows: dict[str, Any], **said: str) -> dict[str, str]:
    return guess_columns(rows, said, "a.csv")[0]


@pytest.mark.parametrize(
    ("row", "columns"),
    [
        ({"question": "2+2?", "answer": "4"}, {"question": "question", "answer": "answer"}),
        ({"Problem": "2+2?", "Solution": 4, "level": 1}, {"question": "Problem", "answer": "Solution"}),
        (
            {"prompt": "p", "reward_model": {"ground_truth": "4"}},
            {"question": "prompt", "answer": "reward_model.ground_truth"},
        ),
        ({"text": "t", "problem": "p", "label": 1}, {"question": "problem", "answer": "label"}),  # the better name
        ({"the_question": "q", "my_gold": "g", "x": 1}, {"question": "the_question", "answer": "my_gold"}),
        ({"a": "What is 2+2?", "b": "4"}, {"question": "a", "answer": "b"}),  # two columns: the longer one asks
        ({"b": "4", "a": "What is 2+2?"}, {"question": "a", "answer": "b"}),
    ],
)
def test_usual_names(row: dict[str, Any], columns: dict[str, str]):
    assert guessed(row) == columns


def test_an_id_names_every_row_or_is_none():
    rows = [{"question": f"q{n}", "answer": n, "id": n} for n in range(3)]
    assert guessed(*rows)["prompt_id"] == "id"
    assert "prompt_id" not in guessed(*rows, rows[0])  # twice the same
    assert "prompt_id" not in guessed({**rows[0], "id": None}, {**rows[1], "id": None})


def test_what_is_said_is_not_guessed():
    row = {"question": "q", "hint": "h", "answer": "a"}
    assert guessed(row, question="hint") == {"question": "hint", "answer": "answer"}
    assert guess_columns([row], {"question": "question", "answer": "answer"}, "f")[1] == []


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"x": "a", "y": "b", "z": "c"}, "no column looks like the question; there are x, y, z"),
        ({"question": "q", "y": "b", "z": "c"}, "no column looks like the answer"),
        ({"x": "aa", "y": "bb"}, "no column looks like the question"),  # as long as each other
    ],
)
def test_a_doubt_is_an_error_that_lists_the_columns(row: dict[str, Any], words: str):
    with pytest.raises(DataError, match=words) as caught:
        guessed(row)
    assert "--column" in caught.value.remedy
