"""method/consensus.py: Eqs. 3-5, and abstentions."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bcpg_cluster.records import SampleId, Verdict, VerdictStatus
from bcpg_cluster.stages.judge.protocol import Judgement
from bcpg_cluster.stages.weigh.consensus import RULES, ConsensusRule, consensus, vote_label

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
        ({"a": [label(1)]}, {}, "most", "known: all, any, k_of_n, majority, weighted"),
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
@settings(deadline=None)
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
@settings(deadline=None)
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


# --- the other rules, and abstentions


def named(labels: list[int | None]) -> dict[str, int | None]:
    return {f"j{index}": value for index, value in enumerate(labels)}


@pytest.mark.parametrize(
    ("rule", "labels", "against", "left_out"),
    [
        ("all", [1, 1], 1, 1), ("all", [1, None], 0, 1), ("all", [1, 0, None], 0, 0), ("all", [None, None], 0, 0),
        ("any", [0, 1], 1, 1), ("any", [0, None], 0, 0), ("any", [None, 1], 1, 1), ("any", [None], 0, 0),
        ("majority", [1, None], 0, 1), ("majority", [1, None, None], 0, 1), ("majority", [1, 0, None], 0, 0),
        ("majority", [1, 1, None], 1, 1), ("majority", [1, 1, 0, None], 0, 1), ("majority", [None, None, None], 0, 0),
    ],
)  # fmt: skip
def test_abstentions_count_against_or_are_left_out(
    rule: str, labels: list[int | None], against: int, left_out: int
):  # by hand
    assert ConsensusRule(rule).decide(named(labels)) == against
    assert ConsensusRule(rule, "left_out").decide(named(labels)) == left_out


@pytest.mark.parametrize(
    ("needed", "labels", "against", "left_out"),
    [
        (2, [1, 1, 0], 1, 1), (2, [1, 0, 0], 0, 0),
        (2, [1, 0, None], 0, 0),  # left out: 2 of 3 becomes ceil(4/3) = 2 of 2
        (2, [1, 1, None], 1, 1),
        (2, [1, None, None], 0, 1),  # ceil(2/3) = 1 of 1
        (2, [1, 0, None, None], 0, 1),  # 2 of 4 becomes 1 of 2
        (3, [1, 1, 0, None], 0, 0),  # 3 of 4 becomes ceil(9/4) = 3 of 3
        (1, [None, None], 0, 0),
    ],
)  # fmt: skip
def test_k_of_n_by_hand(needed: int, labels: list[int | None], against: int, left_out: int):
    assert ConsensusRule("k_of_n", num_needed=needed).decide(named(labels)) == against
    assert ConsensusRule("k_of_n", "left_out", num_needed=needed).decide(named(labels)) == left_out


def test_weighted_by_hand():
    # 0.9 and 0.75 are odds of 9 and 3; a prior of 0.25 is odds of 1/3
    accuracies = {"j0": 0.9, "j1": 0.75, "j2": 0.75}
    even = ConsensusRule("weighted", accuracies=accuracies)
    assert math.exp(even.log_odds(named([1, 0, 0]))) == pytest.approx(9 / 3 / 3)
    assert math.exp(even.log_odds(named([1, 1, 0]))) == pytest.approx(9)
    assert even.decide(named([0, 1, 1])) == 0  # (1/9) * 3 * 3 = 1: as likely wrong as right
    doubtful = ConsensusRule("weighted", accuracies=accuracies, prior=0.25)
    assert math.exp(doubtful.log_odds(named([1, 0, None]))) == pytest.approx(9 / 3 / 3 / 3)  # against: as if "wrong"
    assert doubtful.decide(named([1, 0, None])) == 0
    lenient = ConsensusRule("weighted", "left_out", accuracies=accuracies, prior=0.25)
    assert math.exp(lenient.log_odds(named([1, None, None]))) == pytest.approx(9 / 3)
    assert lenient.decide(named([1, None, None])) == 1
    hopeful = ConsensusRule("weighted", "left_out", accuracies=accuracies, prior=0.99)
    assert hopeful.decide(named([None, None, None])) == 0  # a prior alone mines nothing


def test_weighted_lets_one_good_judge_outvote_two_poor_ones():
    votes = {"good": [label(1), label(0)], "poor": [label(0), label(1)], "poorer": [label(0), label(1)]}
    rule = ConsensusRule("weighted", accuracies={"good": 0.95, "poor": 0.6, "poorer": 0.55})
    assert consensus(votes, {}, rule).labels == [1, 0]
    assert consensus(votes, {}, "majority").labels == [0, 1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "most"}, "unknown consensus rule"),
        ({"abstention": "ignored"}, "'left_out'"),
        ({"name": "k_of_n"}, "num_needed"),
        ({"name": "all", "num_needed": 1}, "num_needed"),
        ({"name": "k_of_n", "num_needed": 0}, "at least 1"),
        ({"name": "weighted"}, "accuracies"),
        ({"name": "any", "accuracies": {"a": 0.9}}, "accuracies"),
        ({"name": "weighted", "accuracies": {"a": 0.4}}, r"\[0.5, 1\)"),
        ({"name": "weighted", "accuracies": {"a": 1.0}}, r"\[0.5, 1\)"),
        ({"name": "weighted", "accuracies": {"a": math.nan}}, r"\[0.5, 1\)"),
        ({"prior": 1.0}, r"\(0, 1\)"),
    ],
)
def test_rules_that_do_not_hold(options: dict, message: str):
    with pytest.raises(ValueError, match=message):
        ConsensusRule(**options)


def test_rules_that_do_not_fit_the_judges():
    with pytest.raises(ValueError, match="3 of 2 judges"):
        consensus({"a": [label(1)], "b": [label(1)]}, {}, ConsensusRule("k_of_n", num_needed=3))
    with pytest.raises(ValueError, match=r"\['b'\]"):
        consensus({"a": [label(1)], "b": [label(1)]}, {}, ConsensusRule("weighted", accuracies={"a": 0.9}))


LABELS = st.lists(st.sampled_from([0, 1, None]), min_size=1, max_size=5)


def rules_for(number: int) -> list[ConsensusRule]:
    accuracies = {f"j{index}": 0.6 + 0.08 * index for index in range(number)}
    rules = []
    for abstention in ("against", "left_out"):
        rules += [ConsensusRule(name, abstention) for name in ("all", "any", "majority")]
        rules += [ConsensusRule("k_of_n", abstention, num_needed=k) for k in range(1, number + 1)]
        rules.append(ConsensusRule("weighted", abstention, accuracies=accuracies, prior=0.3))
    assert {rule.name for rule in rules} == set(RULES)
    return rules


@given(LABELS, st.data())
@settings(deadline=None)
def test_rules_are_monotone_and_never_right_without_a_vote_for_the_step(labels: list[int | None], data: st.DataObject):
    position = data.draw(st.integers(0, len(labels) - 1))
    better = [*labels[:position], 1, *labels[position + 1 :]]
    for rule in rules_for(len(labels)):
        assert rule.decide(named(labels)) <= rule.decide(named(better)), rule
        if 1 not in labels and rule.name != "weighted":
            assert rule.decide(named(labels)) == 0, rule
        if None not in labels:
            assert rule.opinion(named(labels)) == rule.decide(named(labels))


@given(LABELS)
@settings(deadline=None)
def test_k_of_n_spans_from_any_to_all(labels: list[int | None]):
    for abstention in ("against", "left_out"):
        decided = [
            ConsensusRule("k_of_n", abstention, num_needed=k).decide(named(labels)) for k in range(1, len(labels) + 1)
        ]
        assert decided == sorted(decided, reverse=True)
        assert decided[0] == ConsensusRule("any", abstention).decide(named(labels))
        assert decided[-1] == ConsensusRule("all", abstention).decide(named(labels))


@given(LABELS)
@settings(deadline=None)
def test_equal_accuracies_and_an_even_prior_are_a_majority(labels: list[int | None]):
    for abstention in ("against", "left_out"):
        weighted = ConsensusRule("weighted", abstention, accuracies=dict.fromkeys(named(labels), 0.8))
        assert weighted.decide(named(labels)) == ConsensusRule("majority", abstention).decide(named(labels))


@pytest.mark.parametrize(
    ("rule", "abstention", "labels", "opinion"),
    [
        ("all", "against", [1, None], None), ("all", "against", [0, None], 0), ("all", "left_out", [1, None], 1),
        ("any", "against", [0, None], None), ("any", "left_out", [0, None], 0), ("any", "left_out", [None, None], None),
        ("majority", "against", [0, 0, None], 0), ("majority", "against", [1, 0, None], None),
    ],
)  # fmt: skip
def test_a_silence_is_no_opinion(rule: str, abstention: str, labels: list[int | None], opinion: int | None):
    assert ConsensusRule(rule, abstention).opinion(named(labels)) == opinion
