"""Votes of an LLM judge: their seeds, their count, and the score they make."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bcpg_cluster.records import VerdictStatus
from bcpg_cluster.stages.judge.llm.cache import VerdictCache
from bcpg_cluster.stages.judge.llm.judge_prompt import JudgePrompt
from bcpg_cluster.stages.judge.llm.llm_judge import JudgeOptions, LlmJudge, most_calls
from bcpg_cluster.stages.judge.llm.transport import Ask, Reply
from bcpg_cluster.stages.judge.llm.verdict_odds import ScoredVerdict
from bcpg_cluster.stages.judge.llm.votes import answers_in, decided, reasons_in
from bcpg_cluster.stages.judge.llm.windows import WindowLimits
from bcpg_cluster.stages.judge.protocol import JudgeCase, Judgement
from tests.unit.stages.judge.llm.test_content_seeds import CASES, PROMPT, Coin, member

JUDGED, UNPARSABLE, LOST = VerdictStatus.JUDGED, VerdictStatus.UNPARSABLE, VerdictStatus.ENGINE_LOST


def vote(label: int | None, score: float | None = None, status: VerdictStatus = JUDGED, raw: str = "r") -> Judgement:
    return Judgement(status, label, score, None, raw)


RIGHT, WRONG, UNREAD = vote(1), vote(0), vote(None, None, UNPARSABLE, "hm")


# --- from votes to a verdict -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("votes", "score"),
    [
        ([RIGHT, RIGHT, WRONG], 2 / 3),
        ([RIGHT, WRONG, UNREAD], 0.5),  # of those that answered
        ([WRONG, UNREAD], 0.0),  # half of them is enough
        ([RIGHT, vote(None, None, LOST), UNREAD, RIGHT], 1.0),
    ],
)
def test_the_share_that_says_right(votes: list[Judgement], score: float) -> None:
    said = decided(votes, "label")
    assert (said.status, said.label, said.score, said.error_type) == (JUDGED, None, pytest.approx(score), None)
    assert answers_in(said.raw) == [one.raw for one in votes]


@pytest.mark.parametrize(
    ("votes", "status"),
    [
        ([RIGHT, UNREAD, UNREAD], UNPARSABLE),
        ([RIGHT, UNREAD, vote(None, None, LOST), vote(None, None, LOST)], LOST),
        ([vote(None, None, LOST), UNREAD], LOST),  # a tie: the first
        ([UNREAD], UNPARSABLE),
    ],
)
def test_fewer_than_half_are_no_verdict(votes: list[Judgement], status: VerdictStatus) -> None:
    said = decided(votes, "label")
    assert (said.status, said.label, said.score) == (status, None, None)


def test_probabilities() -> None:
    assert decided([vote(1, 0.9)], "probability") == vote(None, 0.9)
    assert decided([vote(1, 0.9), vote(0, 0.3), vote(1)], "probability").score == pytest.approx(0.6)
    assert decided([vote(1)], "probability") == vote(None, None, UNPARSABLE)  # a label is no guess at its score
    assert decided([vote(1, 0.9), vote(1), vote(0)], "probability").status is UNPARSABLE
    assert decided([RIGHT], "label") is RIGHT


def test_reasons_are_found_in_votes() -> None:
    texts = [
        "hm",
        '{"verdicts": [{"step": 0, "reason": "", "error_type": "none", "correct": 1}]}',
        '{"verdicts": [{"step": 0, "reason": "carry", "error_type": "none", "correct": 1}, {"step": 1, "reason": "b"}]}',
        '{"verdicts": [{"step": 0, "reason": "late", "error_type": "none", "correct": 1}]}',
    ]
    assert reasons_in(decided([vote(1, raw=text) for text in texts], "label").raw) == {0: "carry", 1: "b"}
    assert reasons_in(texts[3]) == {0: "late"}
    for text in ('{"votes": [', '{"votes": [1]}', "", "0 correct none"):
        assert answers_in(text) == [text] and reasons_in(text) == {}


# --- drawing them ----------------------------------------------------------------------------------------------------


def scores(cases: Sequence[JudgeCase], own_seed: int, **options: Any) -> list[list[float | None]]:
    rows = member(own_seed, **({"votes": 5} | options))[0].judge(cases).judgements
    assert all(said.label is None and said.status is JUDGED for row in rows for said in row)
    return [[said.score for said in row] for row in rows]


def test_scores_by_the_votes_of_single_judges() -> None:
    """Vote v of k is what a judge of one vote says as draw v: worked out from those."""
    labels = [
        [[said.label or 0 for said in row] for row in member(3, sample=draw)[0].judge(CASES).judgements]
        for draw in range(5)
    ]
    shares = [[sum(of_step) / 5 for of_step in zip(*of_case, strict=True)] for of_case in zip(*labels, strict=True)]
    assert scores(CASES, 1) == shares
    assert len({share for row in shares for share in row}) > 3


def test_members_company_and_their_number_do_not_matter() -> None:
    whole = scores(CASES, 1)
    assert scores(CASES[::-1], 2)[::-1] == whole
    assert [row for start in range(0, 24, 7) for row in scores(CASES[start : start + 7], start)] == whole
    assert scores(CASES, 1, run_seed=6) != whole
    assert scores(CASES, 1, sample=1) != whole


@given(st.permutations(range(24)), st.integers(1, 24), st.integers(0, 99))
def test_any_split_over_any_members_says_the_same(order: list[int], size: int, seed: int) -> None:
    said = {}
    for start in range(0, 24, size):
        shard = order[start : start + size]
        said |= dict(zip(shard, scores([CASES[i] for i in shard], seed + start, votes=3), strict=True))
    assert [said[i] for i in range(24)] == scores(CASES, 0, votes=3)


def test_every_vote_is_sent_with_a_seed_of_its_own() -> None:
    judge, coin = member(1, votes=4)
    judge.judge(CASES[:3])
    assert len(coin.requests) == 12
    assert len({request.seed for request in coin.requests}) == 12
    other, others = member(1, votes=4, sample=1)
    other.judge(CASES[:3])
    assert not {request.seed for request in coin.requests} & {request.seed for request in others.requests}


def test_stored_votes_are_not_drawn_again(tmp_path: Path) -> None:
    def cached(votes: int) -> tuple[LlmJudge, Coin]:
        judge, coin = member(1, votes=votes)
        return LlmJudge("j", judge._transport, judge._options, VerdictCache(tmp_path)), coin

    judge, coin = cached(3)
    first = judge.judge(CASES[:4])
    assert (len(coin.requests), first.counts["calls"]) == (12, 12)
    again, idle = cached(3)
    assert again.judge(CASES[:4]).judgements == first.judgements
    assert idle.requests == []
    more, drawn = cached(5)  # two more votes of each
    more.judge(CASES[:4])
    assert len(drawn.requests) == 8


def test_versions_name_them() -> None:
    one, _ = member(1)
    versions = [member(1, **options)[0].version for options in ({"votes": 3}, {"votes": 5}, {"says": "probability"})]
    assert versions == [f"{one.version}{more}" for more in (":votes 3", ":votes 5", ":says probability")]


def test_calls_are_bounded_by_votes() -> None:
    options = JudgeOptions(PROMPT, windows=WindowLimits(4), votes=3)
    assert most_calls(options, 10) == 3 * 3
    assert most_calls(replace(options, prompt=replace(PROMPT, repair="again")), 10) == 3 * 3 * 2


@dataclass
class Script:
    """A transport that plays an answer by vote and question, and keeps what it was asked."""

    plays: Mapping[int, Sequence[str]]
    verdicts: tuple[ScoredVerdict, ...] | None = None
    asks: list[Ask] = field(default_factory=list)
    model: str = "m"
    decoding: Mapping[str, Any] = field(default_factory=dict)
    is_bound: bool = False
    enforces: bool = False

    def settings(self, *, sample: int, is_json: bool) -> str:
        return ""

    def count_tokens(self, text: str) -> int:
        return len(text)

    def answers(self, asks: Sequence[Ask]) -> Iterator[tuple[int, Reply]]:
        for index, ask in enumerate(asks):
            text = self.plays[ask.sample][sum(earlier.sample == ask.sample for earlier in self.asks)]
            self.asks.append(ask)
            yield index, Reply(text, verdicts=self.verdicts)

    def close(self) -> None:
        """Nothing to free."""


CARRYING = JudgePrompt(
    "t", "", "$problem $steps $first $last $earlier", "$text", earlier="wrong: $verdicts", repair="again"
)
TWO = [JudgeCase("p", ("a", "b"))]


def test_every_vote_carries_its_own_findings_and_is_repaired_alone() -> None:
    script = Script(
        {0: ["0 wrong logic", "1 correct none"], 1: ["what?", "0 correct none", "1 correct none"]},
    )
    judge = LlmJudge("j", script, JudgeOptions(CARRYING, windows=WindowLimits(1), votes=2))
    judged = judge.judge(TWO)
    assert [said.score for said in judged.judgements[0]] == [0.5, 1.0]
    assert answers_in(judged.judgements[0][0].raw) == ["0 wrong logic", "0 correct none"]
    told = {
        (ask.sample, ask.messages[0]["content"][-14:]) for ask in script.asks if " 1 1 " in ask.messages[0]["content"]
    }
    assert told == {(0, "wrong: 0 logic"), (1, "p a\nb 1 1 "[-14:])}
    assert (judged.counts["calls"], judged.counts["calls.repair"]) == (5, 1)


def test_probability_of_one_answer() -> None:
    prompt = replace(CARRYING, earlier="", repair="", user="$problem $steps $first $last")
    answer = {0: ["0 wrong logic\n1 correct none"]}
    options = JudgeOptions(prompt, says="probability")
    found = (ScoredVerdict(0, 0.25, 0), ScoredVerdict(1, None, 1))
    said = LlmJudge("j", Script(answer, found), options).judge(TWO).judgements[0]
    assert [(one.status, one.label, one.score) for one in said] == [(JUDGED, None, 0.25), (UNPARSABLE, None, None)]
    assert said[1].raw == answer[0][0]
    without = LlmJudge("j", Script(answer), options).judge(TWO).judgements[0]
    assert [one.status for one in without] == [UNPARSABLE] * 2


def test_scores_are_stored_and_come_back(tmp_path: Path) -> None:
    prompt = replace(CARRYING, earlier="", repair="", user="$problem $steps $first $last")
    options = JudgeOptions(prompt, says="probability")
    found = (ScoredVerdict(0, 0.1 + 0.2, 0), ScoredVerdict(1, 1 / 3, 1))
    first = LlmJudge("j", Script({0: ["0 wrong logic\n1 correct none"]}, found), options, VerdictCache(tmp_path)).judge(
        TWO
    )
    again = LlmJudge("j", Script({}), options, VerdictCache(tmp_path)).judge(TWO)
    assert again.judgements == first.judgements
    assert [said.score for said in again.judgements[0]] == [0.1 + 0.2, 1 / 3]
    assert again.counts == {"calls": 1, "calls.stored": 1}
    # Answers without scores are stored as they always were.
    (path,) = (path for path in tmp_path.rglob("*.json"))
    assert math.isclose(json.loads(path.read_text())["answer"]["verdicts"][1]["score"], 1 / 3)
    LlmJudge(
        "j", Script({0: ["0 wrong logic\n1 correct none"]}), JudgeOptions(prompt), VerdictCache(tmp_path / "b")
    ).judge(TWO)
    (plain,) = (tmp_path / "b").rglob("*.json")
    assert set(json.loads(plain.read_text())["answer"]) == {"text", "prompt_tokens", "answer_tokens"}
