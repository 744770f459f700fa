"""method/consensus.py: Eqs. 3-5, and abstentions."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bcpg_cluster.engines.protocols import Judgement
from bcpg_cluster.method.consensus import consensus, vote_label
from bcpg_cluster.records import SampleId, Verdict, VerdictStatus

JUDGED = VerdictStatus.JUDGED


def label(value: int) -> Judgement:
    return Judgement(JUDGED, label=value)


def score(value: float) -> Judgement:
    return Judgement(JUDGED, score=value)


LOST = Judgement(VerdictStatus.ENGINE_LOST)
UNPARSABLE = Judgement(VerdictStatus.UNPARSABLE, raw="?")


def test_worked_example():
    result = consensus(
        {
            "llm": [label(1), label(1), label(0), UNPARSABLE, label(1)],
            "prm": [score(0.9), score(0.5), score(0.9), score(0.9), LOST],
        },
        {"prm": 0.5},
    )
    assert result.labels == [1, 0, 0, 0, 0]  # 0.5 is not > 0.5 (Eq. 4)
    assert result.judge_labels == {"llm": [1, 1, 0, None, 1], "prm": [1, 0, 1, 1, None]}
    assert result.abstained == {"llm": {VerdictStatus.UNPARSABLE: 1}, "prm": {VerdictStatus.ENGINE_LOST: 1}}
    assert result.num_undecided == 2


def test_verdicts_are_votes_too_and_a_status_beats_a_label():
    verdict = Verdict(SampleId(0, "p", 0), 0, "llm", "v", VerdictStatus.TIMEOUT, label=1)
    assert vote_label(verdict) is None
    assert consensus({"llm": [verdict]}, {}).labels == [0]


def test_no_steps():
    assert consensus({"llm": [], "prm": []}, {}).labels == []


@pytest.mark.parametrize(
    ("votes", "thresholds", "rule", "message"),
    [
        ({}, {}, "all", "at least one judge"),
        ({"a": [label(1)], "b": []}, {}, "all", "every judge"),
        ({"a": [label(1)]}, {}, "most", "known: all, majority"),
        ({"a": [score(0.7)]}, {}, "all", "threshold"),
        ({"a": [score(1.5)]}, {"a": 0.5}, "all", r"\[0, 1\]"),
        ({"a": [score(math.nan)]}, {"a": 0.5}, "all", r"\[0, 1\]"),
        ({"a": [score(0.5)]}, {"a": math.nan}, "all", "finite"),
        ({"a": [label(2)]}, {}, "all", "0 or 1"),
        ({"a": [Judgement(JUDGED)]}, {}, "all", "label or a score"),
        ({"a": [Judgement(JUDGED, label=1, score=0.5)]}, {"a": 0.1}, "all", "label or a score"),
    ],
)
def test_what_cannot_be_combined(votes: dict, thresholds: dict, rule: str, message: str):
    with pytest.raises(ValueError, match=message):
        consensus(votes, thresholds, rule)


@pytest.mark.parametrize(
    ("votes", "mined"),
    [
        ([1, 1], 1), ([1, 0], 0), ([1, None], 0), ([None, None], 0),
        ([1, 1, 1], 1), ([1, 1, 0], 1), ([1, 1, None], 1), ([1, 0, 0], 0), ([1, None, None], 0), ([1, 0, None], 0),
        ([1, 1, 1, 0], 1), ([1, 1, 1, None], 1), ([1, 1, 0, 0], 0), ([1, 1, None, None], 0), ([1, 1, 0, None], 0),
        ([1], 1), ([None], 0),
    ],
)  # fmt: skip
def test_a_majority_is_more_than_half_of_all_judges(votes: list[int | None], mined: int):
    said = {f"j{index}": [LOST if vote is None else label(vote)] for index, vote in enumerate(votes)}
    result = consensus(said, {}, "majority")
    assert result.labels == [mined]
    assert result.num_undecided == int(None in votes)


VOTES = st.one_of(
    st.sampled_from([label(0), label(1), LOST, UNPARSABLE]), st.floats(0, 1, allow_subnormal=False).map(score)
)


@given(st.integers(0, 6).flatmap(lambda n: st.lists(st.lists(VOTES, min_size=n, max_size=n), min_size=1, max_size=4)))
def test_mined_means_every_judge_said_so_and_more_judges_never_mine_more(rows: list[list[Judgement]]):
    votes = {f"judge{index}": row for index, row in enumerate(rows)}
    thresholds = dict.fromkeys(votes, 0.5)
    result = consensus(votes, thresholds)
    for step, mined in enumerate(result.labels):
        said = [vote_label(row[step], 0.5) for row in rows]
        assert mined == (1 if all(s == 1 for s in said) else 0)
    fewer = consensus({"judge0": rows[0]}, thresholds)
    assert all(a <= b for a, b in zip(result.labels, fewer.labels, strict=True))
    num_abstained = sum(sum(counts.values()) for counts in result.abstained.values())
    assert num_abstained == sum(vote.status is not JUDGED for row in rows for vote in row)


@given(st.integers(0, 6).flatmap(lambda n: st.lists(st.lists(VOTES, min_size=n, max_size=n), min_size=1, max_size=5)))
def test_a_majority_mines_all_that_unanimity_does_and_differs_in_the_labels_alone(rows: list[list[Judgement]]):
    votes = {f"judge{index}": row for index, row in enumerate(rows)}
    thresholds = dict.fromkeys(votes, 0.5)
    strict, loose = consensus(votes, thresholds, "all"), consensus(votes, thresholds, "majority")
    assert all(a <= b for a, b in zip(strict.labels, loose.labels, strict=True))
    assert strict.judge_labels == loose.judge_labels and strict.num_undecided == loose.num_undecided
    if len(rows) <= 2:
        assert strict.labels == loose.labels
    for step, mined in enumerate(loose.labels):
        in_favour = [row for row in rows if vote_label(row[step], 0.5) == 1]
        assert mined == (len(in_favour) > len(rows) - len(in_favour))
