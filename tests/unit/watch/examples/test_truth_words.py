"""watch.examples.truth_words: what is said where the truth and what was mined are apart."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from bcpg_cluster.config.run import Config
from bcpg_cluster.records import SampleId, Verdict, VerdictStatus
from bcpg_cluster.watch.examples.truth_words import truth_agreement, truth_lines

ID = SampleId(1, "a", 0)


def labels(judge: str, *of_steps: int | VerdictStatus) -> list[Verdict]:
    """A verdict a step: a label, or why there is none."""
    return [
        Verdict(ID, n, judge, "1", said)
        if isinstance(said, VerdictStatus)
        else Verdict(ID, n, judge, "1", VerdictStatus.JUDGED, said)
        for n, said in enumerate(of_steps)
    ]


def said(llm: list[Any], prm: list[Any], truth: list[Any]) -> dict[str, list[Verdict]]:
    return {"llm": labels("llm", *llm), "prm": labels("prm", *prm), "truth": labels("truth", *truth)}


def test_where_they_are_apart_is_said_with_who_said_what(make_config: Callable[..., Config]):
    """Steps 0 to 3 before the last (4). Step 1 was mined and is wrong, step 3 was not and is right; step 0 and 2 agree."""
    config = make_config()
    of = said([1, 1, 0, 0, 1], [1, 1, 0, 1, 1], [1, 0, 0, 1, 0])
    mined = [True, True, False, False]
    assert truth_lines(mined, of, config) == [
        "truth calls step 1 wrong; both voters called it right, so it was mined",
        "truth calls step 3 right; llm called it wrong, prm called it right, so it was not mined",
        "truth agrees on the other 2 of 4 steps before the last",
    ]
    assert truth_agreement(mined, of, config) == 0.5


def test_a_missing_verdict_is_not_called_wrong(make_config: Callable[..., Config]):
    of = said([1, 1], [VerdictStatus.ENGINE_LOST, 1], [1, 1])
    assert truth_lines([False], of, make_config())[0] == (
        "truth calls step 0 right; llm called it right, prm gave no verdict (engine lost), so it was not mined"
    )


def test_a_step_that_another_rule_decided_is_not_laid_on_the_voters(make_config: Callable[..., Config]):
    """Under weigh.mine: prefix, or flipped labels, both voters' "right" does not mine a step."""
    of = said([1, 1], [1, 1], [1, 1])
    assert truth_lines([False], of, make_config())[0] == (
        "truth calls step 0 right; both voters called it right, yet it was not mined"
    )


@pytest.mark.parametrize(
    ("truth", "line", "share"),
    [
        ([1, 0, 0], "truth agrees on all 2 steps before the last", 1.0),
        ([1, VerdictStatus.REFUSED, 0], "truth agrees on the one step before the last", 1.0),
        ([VerdictStatus.TIMEOUT] * 3, "truth said nothing of these steps", None),
    ],
)
def test_agreement_is_said_too(make_config: Callable[..., Config], truth: list[Any], line: str, share: float | None):
    of = said([1, 0, 1], [1, 0, 1], truth)
    assert truth_lines([True, False], of, make_config()) == [line]
    assert truth_agreement([True, False], of, make_config()) == share


def test_without_a_judge_that_measures_nothing_is_said(make_config: Callable[..., Config]):
    config = make_config()
    voting = config.model_copy(update={"judges": {name: config.judges[name] for name in config.voters}})
    assert truth_lines([True], said([1, 1], [1, 1], [0, 0]), voting) == []
