"""An LLM judge in a cascade: what it asks, what it leaves out, and that no wanted step is judged otherwise for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bcpg_cluster.errors import EngineError
from bcpg_cluster.records import StopReason, VerdictStatus
from bcpg_cluster.stages.generate.protocol import GenerateRequest, Generation, Sampling
from bcpg_cluster.stages.judge.llm.judge_prompt import JudgePrompt
from bcpg_cluster.stages.judge.llm.llm_judge import JudgeOptions, LlmJudge
from bcpg_cluster.stages.judge.llm.transport import GeneratorTransport
from bcpg_cluster.stages.judge.llm.windows import WindowLimits, needed_windows, unneeded_windows
from bcpg_cluster.stages.judge.protocol import JudgeCase, Judgement

PROMPT = JudgePrompt("test", "", "$problem|$steps|$first $last", "$index $text;", answer="lines")
IN_TURN = replace(PROMPT, user="$problem|$steps|$first $last|$earlier", earlier="found: $verdicts")
STEPS = ("one", "two", "three", "four", "five", "six")


@dataclass
class Reader:
    """A generator whose answer on a step depends on the whole prompt, as a model's does."""

    prompts: list[str] = field(default_factory=list)
    fails: bool = False
    policy_version: int = 0
    max_model_len: int | None = None

    def render(self, messages: Sequence[dict[str, str]]) -> tuple[int, ...]:
        return tuple("".join(message["content"] for message in messages).encode())

    def generate(self, requests: Sequence[GenerateRequest]) -> list[Generation]:
        if self.fails:
            raise EngineError("gone")
        return [self._read(bytes(request.prompt_token_ids).decode()) for request in requests]

    def _read(self, prompt: str) -> Generation:
        self.prompts.append(prompt)
        first, last = map(int, prompt.split("|")[2].split())
        kinds = ("correct none", "wrong calculation")
        answer = "\n".join(f"{step} {kinds[(sum(prompt.encode()) + step) % 2]}" for step in range(first, last + 1))
        return Generation((1,), (0.0,), (answer,), StopReason.STOP, 0)

    def close(self) -> None:
        """Nothing to free."""


def judge(prompt: JudgePrompt = PROMPT, **options: Any) -> tuple[LlmJudge, Reader]:
    reader = Reader()
    transport = GeneratorTransport(reader, "m1", Sampling(64, 0.0), 10_000)
    return LlmJudge("j", transport, JudgeOptions(prompt, **options)), reader


def asked(reader: Reader) -> list[str]:
    return [prompt.split("|")[2].strip() for prompt in reader.prompts]


def case(*wanted: int) -> JudgeCase:
    return JudgeCase("p", STEPS, wanted=frozenset(wanted))


def test_the_causal_view_asks_about_wanted_steps_alone() -> None:
    llm, reader = judge(view="causal")
    judged = llm.judge([case(1, 4)])
    assert asked(reader) == ["1 1", "4 4"]
    statuses = [said.status for said in judged.judgements[0]]
    assert statuses == [VerdictStatus.JUDGED if step in (1, 4) else VerdictStatus.NOT_ASKED for step in range(6)]
    assert (judged.counts["calls"], judged.counts["calls.not_made"]) == (2, 4)
    # Step k's prompt is "p|", the steps up to k with their numbers, line breaks between them, and "|k k".
    shown = [sum(len(f"0 {text};") for text in STEPS[: k + 1]) + k + len("p||0 0") for k in (0, 2, 3, 5)]
    assert judged.counts["prompt_tokens.not_sent"] == pytest.approx(sum(shown), abs=4)


def test_the_full_view_asks_about_windows_that_hold_a_wanted_step() -> None:
    llm, reader = judge(windows=WindowLimits(steps=2))
    judged = llm.judge([case(3), JudgeCase("q", STEPS)])
    assert asked(reader) == ["2 3", "0 1", "2 3", "4 5"]
    statuses = [said.status for said in judged.judgements[0]]
    assert statuses == [VerdictStatus.NOT_ASKED] * 2 + [VerdictStatus.JUDGED] * 2 + [VerdictStatus.NOT_ASKED] * 2


def test_a_window_that_is_told_of_earlier_ones_needs_them_all() -> None:
    llm, reader = judge(IN_TURN, windows=WindowLimits(steps=2))
    llm.judge([case(3)])
    assert asked(reader) == ["0 1", "2 3"]


def test_whole_responses_that_nothing_is_wanted_of_are_counted_once_work_succeeds() -> None:
    llm, reader = judge(windows=WindowLimits(steps=2))
    assert llm.savings([JudgeCase("q", STEPS)])["calls.not_made"] == 3
    reader.fails = True
    with pytest.raises(EngineError):
        llm.judge([case(0)])
    reader.fails = False
    assert llm.judge([case(0)]).counts["calls.not_made"] == 2


def test_without_a_cascade_nothing_is_counted_as_saved() -> None:
    llm, _ = judge()
    assert not {"calls.not_made", "prompt_tokens.not_sent"} & set(llm.judge([JudgeCase("q", STEPS)]).counts)


@given(
    st.frozensets(st.integers(0, 5)),
    st.sampled_from([PROMPT, IN_TURN]),
    st.sampled_from(["full", "causal"]),
    st.integers(1, 6),
    st.booleans(),
)
def test_a_wanted_step_is_judged_as_if_all_had_been_asked(wanted, prompt, view, size, looks_ahead) -> None:
    options = {"view": view, "windows": WindowLimits(steps=size, looks_ahead=looks_ahead)}
    (some, _), (every, _) = judge(prompt, **options), judge(prompt, **options)
    said, full = (
        llm.judge([one]).judgements[0] for llm, one in ((some, case(*wanted)), (every, JudgeCase("p", STEPS)))
    )
    assert all(said[step] == full[step] for step in wanted)
    assert all(a == b or a.status is VerdictStatus.NOT_ASKED for a, b in zip(said, full, strict=True))


def test_needed_windows_by_hand() -> None:
    windows = [(0, 1), (2, 2), (3, 5)]
    assert needed_windows(windows, None, in_turn=True) == windows
    assert needed_windows(windows, frozenset({2}), in_turn=False) == [(2, 2)]
    assert needed_windows(windows, frozenset({2}), in_turn=True) == [(0, 1), (2, 2)]
    assert unneeded_windows(windows, frozenset({2}), in_turn=True) == [(3, 5)]
    assert needed_windows(windows, frozenset(), in_turn=True) == []


def test_every_vote_leaves_out_the_same_steps() -> None:
    llm, reader = judge(view="causal", votes=3)
    judged = llm.judge([case(1, 4)])
    assert sorted(asked(reader)) == ["1 1"] * 3 + ["4 4"] * 3
    assert [said.score is not None for said in judged.judgements[0]] == [step in (1, 4) for step in range(6)]
    assert judged.judgements[0][0] == Judgement(VerdictStatus.NOT_ASKED)
    assert (judged.counts["calls"], judged.counts["calls.not_made"]) == (6, 12)
