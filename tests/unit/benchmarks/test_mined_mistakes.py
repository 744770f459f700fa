"""benchmarks/mined_mistakes.py: how much of what is wrong was mined, by hand."""

import pytest

from bcpg_cluster.records import Step
from bcpg_cluster.store.reports import UnitQuality
from benchmarks.mined_mistakes import mistakes_of, wrong_mined


def test_wrong_tokens_mined_by_hand() -> None:
    """Of 100 tokens 75 are right, 60 of which are mined, and 15 wrong ones with them: 15 of 25."""
    assert wrong_mined(UnitQuality(precision=0.8, recall=0.8, true_share=0.75, count=100)) == pytest.approx(0.6)
    assert wrong_mined(UnitQuality(precision=1.0, recall=0.8, true_share=0.75, count=100)) == 0
    assert wrong_mined(UnitQuality(precision=None, recall=0.0, true_share=0.75, count=100)) is None
    assert wrong_mined(UnitQuality(precision=1.0, recall=1.0, true_share=1.0, count=100)) is None


def test_mistakes_are_counted_by_kind_and_the_answer_is_left_out() -> None:
    texts = ("17+25=42", "42+25=67", "67+24=91", "91-8=83", "wait\n91-8=83", "83+46=28", "answer 28")
    steps = [Step(2 * k, 2 * k + 2, text) for k, text in enumerate(texts)]
    mined = [k in (0, 1, 2, 9) for k in range(14)]  # all of step 0, a token of step 1, one of step 4
    assert list(mistakes_of("17 +25 -8 +46", steps, mined)) == [
        ("repeated term", True),
        ("foreign term", False),
        ("doubt without a reason", True),
        ("wrong result", False),
    ]
