"""stages/judge/cascade.py: which steps a later judge is asked about, and that no label depends on it."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bcpg_cluster.records import SampleId, Verdict, VerdictStatus
from bcpg_cluster.stages.judge.cascade import check_cascade, in_order, wanted_steps
from bcpg_cluster.stages.weigh.consensus import ConsensusRule, consensus
from bcpg_cluster.stages.weigh.unasked import judges_to_ask
from bcpg_cluster.stages.weigh.weights import flip_labels, mined_steps

ID = SampleId(1, "a", 0)
ALL, ANY = ConsensusRule("all"), ConsensusRule("any")


def verdict(step: int, said: int | float | VerdictStatus, judge: str = "prm") -> Verdict:
    """A label, a score, or a status without either."""
    if isinstance(said, VerdictStatus):
        return Verdict(ID, step, judge, "v", said)
    is_score = isinstance(said, float)
    return Verdict(ID, step, judge, "v", VerdictStatus.JUDGED, None if is_score else said, said if is_score else None)


def verdicts(*said: int | float | VerdictStatus) -> list[Verdict]:
    return [verdict(step, what) for step, what in enumerate(said)]


def test_under_all_a_step_that_was_called_wrong_is_decided_and_the_last_is_never_mined():
    prm = verdicts(0.9, 0.5, 0.1, VerdictStatus.TIMEOUT, 0.9)
    assert wanted_steps({"prm": prm}, {"prm": 0.5}, ALL, 5) == {
        0,
        3,
    }  # a score of lambda is wrong; silence decides nothing
    assert wanted_steps({"prm": prm}, {"prm": 0.05}, ALL, 5) == {0, 1, 2, 3}
    assert wanted_steps({"prm": prm}, {"prm": 0.5}, ANY, 5) == {1, 2, 3}


def test_every_judge_before_may_decide_and_what_one_was_not_asked_about_is_decided():
    earlier = {"a": verdicts(1, 1, 0, 1), "b": verdicts(1, 0, VerdictStatus.NOT_ASKED, 1)}
    assert wanted_steps(earlier, {}, ALL, 4) == {0}


def test_what_a_judge_declined_is_decided_where_that_counts_against_the_step():
    """ThinkPRM stops at the first wrong step, and declines those after it."""
    thinker = {"thinker": verdicts(1, 0, VerdictStatus.REFUSED, VerdictStatus.REFUSED, VerdictStatus.REFUSED)}
    left_out = ConsensusRule("all", abstention="left_out")
    assert wanted_steps(thinker, {}, ALL, 5) == {0}
    assert wanted_steps(thinker, {}, left_out, 5) == {0, 2, 3}
    assert wanted_steps(thinker, {}, ANY, 5) == {1, 2, 3}
    asked = {**thinker, "llm": verdicts(1, *[VerdictStatus.NOT_ASKED] * 4)}
    assert judges_to_ask(consensus(asked, {}, ALL), {}) == {}
    assert judges_to_ask(consensus(asked, {}, left_out), {}) == {2: ["llm"], 3: ["llm"]}


def test_a_response_whose_only_right_step_is_its_last_is_not_asked_about():
    assert wanted_steps({"prm": verdicts(0, 0, 1)}, {}, ALL, 3) == frozenset()
    assert wanted_steps({"prm": verdicts(1)}, {}, ALL, 1) == frozenset()


def test_no_single_vote_decides_under_the_other_rules():
    with pytest.raises(ValueError, match="majority"):
        wanted_steps({"prm": verdicts(1)}, {}, ConsensusRule("majority"), 1)
    with pytest.raises(ValueError, match="2 steps"):
        wanted_steps({"prm": verdicts(1)}, {}, ALL, 2)


SAID = st.one_of(
    st.sampled_from([0, 1]),
    st.floats(0, 1),
    st.sampled_from([VerdictStatus.TIMEOUT, VerdictStatus.UNPARSABLE, VerdictStatus.REFUSED]),
)


@st.composite
def ensembles(draw: st.DrawFn) -> dict[str, list[Verdict]]:
    num_steps = draw(st.integers(1, 6))
    return {
        name: [verdict(step, draw(SAID), name) for step in range(num_steps)]
        for name in ("first", "second", "third", "beside")
    }


def spared(said: Sequence[Verdict], wanted: frozenset[int]) -> list[Verdict]:
    """What a judge says that answers for nothing but what is wanted."""
    return [vote if vote.step in wanted else verdict(vote.step, VerdictStatus.NOT_ASKED, vote.judge) for vote in said]


@given(
    ensembles(),
    st.sampled_from(["all", "any"]),
    st.sampled_from(["against", "left_out"]),
    st.floats(0, 1),
    st.floats(0, 1),
    st.sampled_from(["consensus", "prefix"]),
)
def test_a_cascade_mines_what_asking_all_mines(said, name, abstention, threshold, flip_rate, mine):
    rule, thresholds = ConsensusRule(name, abstention), dict.fromkeys(said, threshold)
    num_steps = len(said["first"])
    asked = dict(said)
    # third after second after first; beside is on its own
    asked["second"] = spared(said["second"], wanted_steps({"first": asked["first"]}, thresholds, rule, num_steps))
    asked["third"] = spared(said["third"], wanted_steps({"second": asked["second"]}, thresholds, rule, num_steps))

    def mined(votes: dict[str, list[Verdict]]) -> list[int]:
        labels = flip_labels(consensus(votes, thresholds, rule).labels, flip_rate, 7)
        return mined_steps(labels, mine)[:-1]

    assert mined(asked) == mined(said)
    assert judges_to_ask(consensus(asked, thresholds, rule), {}) == {}


@given(ensembles(), st.floats(0, 1), st.floats(0, 1))
def test_another_threshold_either_labels_the_same_or_names_who_is_to_be_asked(said, then, now):
    num_steps = len(said["first"])
    wanted = wanted_steps({"first": said["first"]}, dict.fromkeys(said, then), ALL, num_steps)
    asked = {**said, "second": spared(said["second"], wanted)}
    thresholds = dict.fromkeys(said, now)
    to_ask = judges_to_ask(consensus(asked, thresholds, ALL), {})
    labels, full = (consensus(votes, thresholds, ALL).labels for votes in (asked, said))
    for step in range(num_steps - 1):
        assert labels[step] == full[step] or to_ask.get(step) == ["second"]


def test_judges_come_behind_those_they_wait_for():
    assert in_order({"c": ["b"], "b": ["a"], "a": [], "d": []}) == ["a", "b", "c", "d"]
    assert in_order({"llm": [], "prm": []}) == ["llm", "prm"]
    with pytest.raises(ValueError, match="a, b wait for each other"):
        in_order({"a": ["b"], "b": ["a"], "c": []})


@pytest.mark.parametrize(
    ("after", "voters", "rule", "said"),
    [
        ({"llm": ["prn"], "prm": []}, ["llm", "prm"], ALL, "names prn; the other judges here are prm"),
        ({"llm": ["llm"], "prm": []}, ["llm", "prm"], ALL, "names the judge itself"),
        ({"llm": ["prm"], "prm": []}, ["prm"], ALL, "only a judge with role 'vote' can come after"),
        ({"llm": ["prm"], "prm": []}, ["llm"], ALL, "names prm, without a vote"),
        ({"llm": ["prm"], "prm": []}, ["llm", "prm"], ConsensusRule("majority"), "would depend on the order"),
        ({"llm": ["prm"], "prm": []}, ["llm", "prm"], ConsensusRule("k_of_n", num_needed=2), "weigh.rule is 'k_of_n'"),
        ({"llm": ["prm"], "prm": ["llm"]}, ["llm", "prm"], ALL, "wait for each other"),
    ],
)
def test_a_cascade_that_cannot_be_is_refused_with_the_reason(after, voters, rule, said):
    with pytest.raises(ValueError, match=said):
        check_cascade(after, voters, rule)
