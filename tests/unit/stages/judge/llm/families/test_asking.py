"""How generative process reward models are asked: what they are shown, in which order, and which steps get no verdict."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest

from bcpg_cluster.errors import ConfigError
from bcpg_cluster.records import VerdictStatus
from bcpg_cluster.run.build.judges import load_judge_prompt
from bcpg_cluster.stages.judge.llm.families.families import NOT_REACHED
from bcpg_cluster.stages.judge.llm.judge_prompt import parse_judge_prompt
from bcpg_cluster.stages.judge.llm.llm_judge import JudgeOptions, LlmJudge, View
from bcpg_cluster.stages.judge.llm.transport import Ask, Reply
from bcpg_cluster.stages.judge.llm.windows import WindowLimits
from bcpg_cluster.stages.judge.protocol import JudgeCase, Judgement

CASE = JudgeCase("1+1+1?", ("1+1=2\n", "2+1=4", "answer 4"), gold="3")
SHORT = JudgeCase("2+2?", ("2+2=4",))
YES, NO = (
    f"<analyze>\nhm\n</analyze>\n<output>\n**Judgement**: $\\boxed{{{word}}}$\n</output>" for word in ("Yes", "No")
)


class Scripted:
    """A transport that would enforce a schema, and answers by a function of the messages."""

    model, decoding, is_bound, enforces = "m1", {}, True, True

    def __init__(self, answer: Callable[[Sequence[Mapping[str, str]]], str | Reply]) -> None:
        self._answer = answer
        self.waves: list[list[Ask]] = []

    def settings(self, *, sample: int, is_json: bool) -> str:
        return f"s{sample}" + ":json" * is_json

    def count_tokens(self, text: str) -> int:
        return len(text)

    def answers(self, asks: Sequence[Ask]) -> Iterator[tuple[int, Reply]]:
        self.waves.append(list(asks))
        for index, ask in enumerate(asks):
            said = self._answer(ask.messages)
            yield index, said if isinstance(said, Reply) else Reply(said)

    def close(self) -> None:
        pass


def judge(name: str, answer: Callable[[Any], str | Reply], view: View) -> tuple[LlmJudge, Scripted]:
    transport = Scripted(answer)
    return LlmJudge("j", transport, JudgeOptions(load_judge_prompt(f"embedded:{name}"), view)), transport


def test_thinkprm_sees_all_steps_and_stops_at_the_first_wrong_one() -> None:
    said = "Step 1: fine, \\boxed{correct}\nStep 2: no, \\boxed{incorrect}\n</think>\nIs the solution correct? No"
    thinkprm, transport = judge("thinkprm", lambda _: said, "full")
    (row,) = thinkprm.judge([CASE]).judgements
    assert row == (
        Judgement(VerdictStatus.JUDGED, label=1, raw="Step 1: fine, \\boxed{correct}"),
        Judgement(VerdictStatus.JUDGED, label=0, raw="Step 2: no, \\boxed{incorrect}"),
        Judgement(VerdictStatus.REFUSED, raw=NOT_REACHED),
    )
    ((ask,),) = transport.waves
    assert ask.schema is None  # a schema would bind its thoughts
    (message,) = ask.messages
    assert message["role"] == "user"
    assert (
        "[Math Problem]\n\n1+1+1?\n\n[Solution]\n\nStep 1: 1+1=2\nStep 2: 2+1=4\nStep 3: answer 4\n\nReview"
        in message["content"]
    )
    assert thinkprm.version.startswith("m1/thinkprm@")
    assert thinkprm.version.endswith("/full:s0")


def test_a_thought_that_never_ends_is_unparsable_and_kept() -> None:
    thought = "Step 1: \\boxed{correct}\nStep 2: \\boxed{correct}\nStep 3: \\boxed{correct} but wait"
    thinkprm, transport = judge("thinkprm", lambda _: thought, "full")
    assert thinkprm.judge([CASE]).judgements == ((Judgement(VerdictStatus.UNPARSABLE, raw=thought),) * 3,)
    assert len(transport.waves) == 1  # and is not asked for again


def test_genprm_is_a_conversation() -> None:
    def answer(messages: Sequence[Mapping[str, str]]) -> str:
        return NO if "2+1=4" in messages[-1]["content"] else YES

    genprm, transport = judge("genprm", answer, "causal")
    rows = genprm.judge([CASE, SHORT]).judgements
    assert [[one.label for one in row] for row in rows] == [[1, 0, 1], [1]]
    assert rows[0][1].raw == NO
    assert [len(wave) for wave in transport.waves] == [2, 1, 1]  # each waits for the critique before it
    system, *turns = transport.waves[2][0].messages
    assert system["role"] == "system"
    assert turns == [
        {"role": "user", "content": "Question: 1+1+1?\n\n1+1=2"},
        {"role": "assistant", "content": YES},
        {"role": "user", "content": "2+1=4"},
        {"role": "assistant", "content": NO},
        {"role": "user", "content": "answer 4"},
    ]


def test_a_conversation_in_a_cascade_runs_up_to_the_last_wanted_step() -> None:
    """Each prompt holds the answers before it, so no earlier step may be left out; a later one may."""

    def answer(messages: Sequence[Mapping[str, str]]) -> str:
        return NO if "2+1=4" in messages[-1]["content"] else YES

    genprm, transport = judge("genprm", answer, "causal")
    (whole,) = genprm.judge([CASE]).judgements
    asked = [ask.messages for wave in transport.waves for ask in wave]
    transport.waves.clear()
    (row,) = genprm.judge([replace(CASE, wanted=frozenset({1}))]).judgements
    assert [ask.messages for wave in transport.waves for ask in wave] == asked[:2]
    assert row[:2] == whole[:2]
    assert {said.status for said in row[2:]} == {VerdictStatus.NOT_ASKED}


def test_a_conversation_ends_where_no_answer_came() -> None:
    lost = Reply("no connection", VerdictStatus.ENGINE_LOST)
    genprm, transport = judge("genprm", lambda said: lost if "2+1=4" in said[-1]["content"] else YES, "causal")
    (row,) = genprm.judge([CASE]).judgements
    assert [one.status for one in row] == [VerdictStatus.JUDGED, VerdictStatus.ENGINE_LOST, VerdictStatus.ENGINE_LOST]
    assert [len(wave) for wave in transport.waves] == [1, 1, 0]
    # What cannot be read is part of the conversation all the same, as in the published code.
    genprm, transport = judge("genprm", lambda said: "hm" if "2+1=4" in said[-1]["content"] else YES, "causal")
    (row,) = genprm.judge([CASE]).judgements
    assert [one.status for one in row] == [VerdictStatus.JUDGED, VerdictStatus.UNPARSABLE, VerdictStatus.JUDGED]
    assert transport.waves[2][0].messages[4] == {"role": "assistant", "content": "hm"}


def test_votes_of_one_model_each_have_a_conversation_of_their_own() -> None:
    drawn: list[str] = []

    def answer(messages: Sequence[Mapping[str, str]]) -> str:
        drawn.append(NO if len(drawn) == 1 else YES)  # the second vote on the first step says no
        return drawn[-1]

    transport = Scripted(answer)
    options = JudgeOptions(load_judge_prompt("embedded:genprm"), "causal", votes=3)
    (row,) = LlmJudge("j", transport, options).judge([CASE]).judgements
    assert [one.score for one in row] == [2 / 3, 1.0, 1.0]
    assert [ask.sample for ask in transport.waves[0]] == [0, 1, 2]
    assert [ask.messages[2]["content"] for ask in transport.waves[1]] == [YES, NO, YES]


def test_steps_that_most_votes_do_not_come_to_have_no_score() -> None:
    """One vote stops at the first step, the other goes to the end: half of them is enough. Of three, one is not."""
    short, whole = (
        "Step 1: \\boxed{incorrect}\n</think>",
        "".join(f"Step {n}: \\boxed{{correct}}\n" for n in (1, 2, 3)) + "</think>",
    )
    for answers, scores, status in (
        ([short, whole], [0.5, 1.0, 1.0], "judged"),
        ([short, short, whole], [1 / 3, None, None], "refused"),
    ):
        transport = Scripted(lambda _, rest=iter(answers): next(rest))
        options = JudgeOptions(load_judge_prompt("embedded:thinkprm"), votes=len(answers))
        (row,) = LlmJudge("j", transport, options).judge([CASE]).judgements
        assert [one.score for one in row] == scores
        assert row[2].status == status


def test_rprm_is_asked_about_one_step_at_a_time() -> None:
    rprm, transport = judge("rprm", lambda _: "Verification: Is the step correct (Yes/No)? No", "causal")
    (row,) = rprm.judge([CASE]).judgements
    assert [one.label for one in row] == [0, 0, 0]
    ((first, second, _),) = transport.waves  # all at once
    assert "Previous Steps: \nNow Step: Step 1: 1+1=2\n" in first.messages[-1]["content"]
    assert "Previous Steps: Step 1: 1+1=2\nNow Step: Step 2: 2+1=4\n" in second.messages[-1]["content"]
    assert "answer 4" not in second.messages[-1]["content"]
    assert "gold" not in str(second.messages)


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("thinkprm", {"view": "causal"}, "view causal.*set view: full"),
        ("genprm", {"view": "full"}, "view full.*set view: causal"),
        ("rprm", {}, "view full.*set view: causal"),
        ("thinkprm", {"windows": WindowLimits(4)}, "window_steps.*remove them"),
        ("thinkprm", {"answer_after": "</think>"}, "answer_after '</think>'.*remove it"),
    ],
)
def test_what_a_family_was_not_trained_for_is_refused(name: str, options: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=f"(?s)judges.j: {words}"):
        LlmJudge("j", Scripted(lambda _: ""), JudgeOptions(load_judge_prompt(f"embedded:{name}"), **options))


@pytest.mark.parametrize("name", ["thinkprm", "genprm", "rprm"])
def test_the_model_decides_by_which_rule(name: str) -> None:
    prompts = [load_judge_prompt(f"embedded:{name}", rule) for rule in ("propagated", "local")]
    assert prompts[0].user == prompts[1].user
    assert prompts[0].digest != prompts[1].digest  # what its labels mean is recorded beside them


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ('user = "$problem"\nstep = "$number $text"\nanswer = "thinkprm"', r"user lacks \$steps"),
        ('user = "$problem $steps"\nstep = "$index $text"\nanswer = "thinkprm"', r"step lacks \$number"),
        ('user = "$problem $text $gold"\nstep = "$text"\nanswer = "genprm"', r"nothing fills \$gold"),
        ('user = "$problem $text"\nstep = "$text"\nanswer = "genprm"\ngold = "$answer"', "there is no gold"),
        (
            'user = "$problem"\nstep = "$index $text"\nanswer = "essay"',
            "'lines' or 'json', 'thinkprm', 'genprm', 'rprm'",
        ),
    ],
)
def test_prompt_files_that_do_not_fit_their_family(lines: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        parse_judge_prompt(f'name = "mine"\nsystem = ""\n{lines}\n')
