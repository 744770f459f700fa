"""stages/judge/stage.py on one shard of hand-made rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from bcpg_cluster.errors import EngineError
from bcpg_cluster.records import (
    ErrorType,
    Receipt,
    SampleId,
    Step,
    Verdict,
    VerdictStatus,
)
from bcpg_cluster.stages.judge.counts import num_requests
from bcpg_cluster.stages.judge.protocol import JudgeCase, Judged, Judgement
from bcpg_cluster.stages.judge.stage import judge
from bcpg_cluster.stages.weigh.consensus import vote_label
from bcpg_cluster.store.rows import (
    Row,
    prompt_row,
    step_rows,
    verdict_row,
    verdicts_from,
    weighted_from,
)
from tests.unit.stages.judge.llm.test_content_seeds import member
from tests.unit.stages.rows import NONSENSE, PROMPTS, RIGHT_STEP, SCORED, job, run_weigh, weigh_settings, weighing


class Scripted:
    """A judge that answers what it is told, and notes what it was asked."""

    version = "scripted/1"

    def __init__(self, answers: Sequence[tuple[Judgement, ...]], **counts: float) -> None:
        self.answers, self.counts, self.asked = tuple(answers), counts, list[JudgeCase]()

    def judge(self, cases: Sequence[JudgeCase]) -> Judged:
        self.asked = list(cases)
        return Judged(self.answers, self.counts)

    def close(self) -> None:
        pass


def judging(**steps: int) -> dict[str, list[Row]]:
    rows = [
        row for name, number in steps.items() for row in step_rows(
            SampleId(1, "a", int(name[1:])), [Step(k, k + 1, f"{name}.{k}") for k in range(number)]
        )
    ]  # fmt: skip
    return {"prompts": list(map(prompt_row, PROMPTS)), "steps": rows}


def test_judge_writes_one_verdict_for_every_step():
    engine = Scripted([(RIGHT_STEP, NONSENSE), (SCORED,)])
    result = judge(judging(s0=2, s1=1), job(), engine=engine, name="llm", show_gold=False)
    verdicts = verdicts_from(result.rows)
    assert verdicts[SampleId(1, "a", 0)] == [
        Verdict(SampleId(1, "a", 0), 0, "llm", "scripted/1", VerdictStatus.JUDGED, 1, None, ErrorType.NONE, "fine"),
        Verdict(SampleId(1, "a", 0), 1, "llm", "scripted/1", VerdictStatus.UNPARSABLE, raw="banana"),
    ]
    assert verdicts[SampleId(1, "a", 1)][0].score == 0.25
    assert engine.asked[0] == JudgeCase("1 +1 +1", ("s0.0", "s0.1"), None)
    assert result.metrics == {"status.judged": 2.0, "status.unparsable": 1.0, "steps": 3, "samples": 2, "tokens": 3}


def test_judge_shows_the_gold_answer_only_where_it_may():
    engine = Scripted([(RIGHT_STEP,)])
    judge(judging(s0=1), job(), engine=engine, name="llm", show_gold=True)
    assert engine.asked[0].gold == "3"


@pytest.mark.parametrize(
    ("answers", "words"),
    [
        ([(RIGHT_STEP,)], "gave 1 verdicts on 2 steps"),
        ([(RIGHT_STEP,) * 3], "gave 3 verdicts on 2 steps"),
        ([()], "gave 0 verdicts on 2 steps"),
        ([], "answered 0 of 1 cases"),
        ([(RIGHT_STEP,) * 2] * 2, "answered 2 of 1 cases"),
    ],
)
def test_a_judge_with_a_wrong_number_of_verdicts_fails(answers: list[tuple[Judgement, ...]], words: str):
    with pytest.raises(EngineError, match=words):
        judge(judging(s0=2), job(), engine=Scripted(answers), name="llm", show_gold=False)


def test_what_a_judge_cost_is_in_the_receipt():
    engine = Scripted([(RIGHT_STEP, NONSENSE)], calls=2.0, cost=0.5)
    result = judge(judging(s0=2), job(), engine=engine, name="llm", show_gold=False)
    assert result.metrics == {
        "status.judged": 1.0, "status.unparsable": 1.0, "judge.calls": 2.0, "judge.cost": 0.5, "steps": 2, "samples": 1,
        "tokens": 2,
    }  # fmt: skip
    with pytest.raises(EngineError, match="gave 1 verdicts on 2 steps"):
        judge(judging(s0=2), job(), engine=Scripted([(RIGHT_STEP,)], calls=2.0), name="llm", show_gold=False)
    idle = Scripted([], calls=2.0)
    assert "judge.calls" not in judge(judging(), job(), engine=idle, name="llm", show_gold=False).metrics


def test_a_judge_is_not_asked_about_nothing():
    engine = Scripted([(RIGHT_STEP,)])
    assert judge(judging(), job(), engine=engine, name="llm", show_gold=False).rows == []
    assert engine.asked == []


def test_prefix_mining_stops_where_the_judges_do_not_agree():
    said = {"llm": [NONSENSE, RIGHT_STEP, RIGHT_STEP], "prm": [SCORED] * 3}
    voters = ["llm", "prm"]
    assert run_weigh(weighing(said), voters=voters).metrics["tokens.mined"] == 6
    prefix = run_weigh(weighing(said), voters=voters, mine="prefix")
    assert (prefix.metrics["tokens.mined"], prefix.metrics["steps.mined"]) == (0, 0)
    assert not any(any(row.mined) for row in weighted_from(prefix.rows))
    decided = run_weigh(weighing(said), voters=voters, mine="prefix", rule="any")
    assert decided.metrics["tokens.mined"] == 12


def test_scores_of_votes_meet_the_threshold_when_weights_are_made():
    """Five coins a step: the shares are stored raw, and another threshold labels the same rows anew."""
    engine, _ = member(1, votes=5)
    result = judge(
        judging(**{f"s{number}": 2 for number in range(24)}), job(), engine=engine, name="llm", show_gold=False
    )
    said = [verdict for of_sample in verdicts_from(result.rows).values() for verdict in of_sample]
    assert all((one.status, one.label) == (VerdictStatus.JUDGED, None) for one in said)
    scores = [one.score for one in said]
    assert set(scores) <= {0.0, 0.2, 0.4, 0.6, 0.8, 1.0} and len(set(scores)) > 3
    for threshold in (0.0, 0.5, 0.6):
        assert [vote_label(one, threshold) for one in said] == [int(score > threshold) for score in scores]
    assert result.metrics["judge.calls"] == 24 * 5


def said_before(**labels: Sequence[int]) -> list[Row]:
    """Verdicts of an earlier judge, by sample."""
    return [
        verdict_row(Verdict(SampleId(1, "a", int(name[1:])), step, "prm", "v", VerdictStatus.JUDGED, label))
        for name, of_sample in labels.items()
        for step, label in enumerate(of_sample)
    ]


NOT_ASKED = Judgement(VerdictStatus.NOT_ASKED)


def test_a_judge_after_another_is_asked_about_responses_that_are_open():
    engine = Scripted([(RIGHT_STEP, NONSENSE, NOT_ASKED)], calls=1.0)
    tables = {**judging(s0=3, s1=2), "verdicts.prm": said_before(s0=[1, 0, 1], s1=[0, 1])}
    result = judge(tables, job(weigh=weigh_settings()), engine=engine, name="llm", show_gold=False)
    assert [(case.steps, case.wanted) for case in engine.asked] == [(("s0.0", "s0.1", "s0.2"), frozenset({0}))]
    verdicts = verdicts_from(result.rows)
    assert [v.status for v in verdicts[SampleId(1, "a", 0)]] == ["judged", "unparsable", "not_asked"]
    assert [v.status for v in verdicts[SampleId(1, "a", 1)]] == ["not_asked"] * 2
    assert result.metrics["status.not_asked"] == 3 and result.metrics["samples.not_asked"] == 1
    assert (result.metrics["samples"], result.metrics["steps"], result.metrics["tokens"]) == (2, 5, 3)


def test_nothing_is_asked_where_everything_is_decided():
    engine = Scripted([])
    tables = {**judging(s0=2), "verdicts.prm": said_before(s0=[0, 1])}
    result = judge(tables, job(weigh=weigh_settings()), engine=engine, name="llm", show_gold=False)
    assert engine.asked == [] and result.metrics["status.not_asked"] == 2


def test_a_judge_cannot_say_that_it_was_not_asked_about_a_step_that_is_wanted():
    tables = {**judging(s0=2), "verdicts.prm": said_before(s0=[1, 1])}
    with pytest.raises(EngineError, match="not asked about step 0"):
        judge(
            tables, job(weigh=weigh_settings()), engine=Scripted([(NOT_ASKED, RIGHT_STEP)]), name="llm", show_gold=False
        )
    with pytest.raises(EngineError, match="not asked about step 1"):
        judge(judging(s0=2), job(), engine=Scripted([(RIGHT_STEP, NOT_ASKED)]), name="llm", show_gold=False)


def test_units_that_end_their_workers_leave_unwanted_steps_not_asked():
    tables = {**judging(s0=3), "verdicts.prm": said_before(s0=[0, 1, 1])}
    given_up = replace(job(weigh=weigh_settings()), given_up="left out")
    result = judge(tables, given_up, engine=Scripted([]), name="llm", show_gold=False)
    assert [row["status"] for row in result.rows] == ["not_asked", "engine_lost", "not_asked"]


@pytest.mark.parametrize(
    ("metrics", "number"),
    [
        ({"judge.calls": 10.0, "judge.calls.stored": 4.0, "samples": 99.0}, 6.0),
        ({"judge.calls.not_made": 3.0, "samples": 3.0}, 0.0),
        ({"samples": 8.0, "samples.not_asked": 5.0}, 3.0),
    ],
)
def test_what_a_shard_asked_of_its_engine(metrics: dict[str, float], number: float):
    assert num_requests(Receipt("verdicts.llm", 1, 0, "a", "p", 1, 1, "c", 0.0, metrics)) == number
