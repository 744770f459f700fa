"""Judges: an LLM judge on a scripted generator, a process reward model against a reference, the truth, the fake."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bcpg_cluster.errors import ConfigError, EngineError
from bcpg_cluster.records import ErrorType, VerdictStatus
from bcpg_cluster.stages.fakes.faults import Faults
from bcpg_cluster.stages.fakes.generator import FakeGenerator
from bcpg_cluster.stages.fakes.judge import FakeJudge
from bcpg_cluster.stages.fakes.skill import draw_solution
from bcpg_cluster.stages.generate.protocol import GenerateRequest, Generation, Sampling
from bcpg_cluster.stages.judge.llm.cache import VerdictCache
from bcpg_cluster.stages.judge.llm.judge_prompt import JudgePrompt
from bcpg_cluster.stages.judge.llm.llm_judge import JudgeOptions, LlmJudge, View
from bcpg_cluster.stages.judge.llm.transport import GeneratorTransport
from bcpg_cluster.stages.judge.llm.windows import WindowLimits
from bcpg_cluster.stages.judge.protocol import Judge, JudgeCase, Judgement
from bcpg_cluster.stages.judge.task_truth import TaskTruth

PROMPT = JudgePrompt("test", "", "$problem|$steps|$first $last|$gold", "$index $text;", gold="gold $answer")
CASES = [
    JudgeCase("17 +25 *3", ("17+25=42", "42*3=27", "answer 27")),
    JudgeCase("10 -8", ("10-8=2",), gold="2"),
    JudgeCase("1 +1", ()),
]
RIGHT = Judgement(VerdictStatus.JUDGED, label=1, error_type=ErrorType.NONE)


def judge_on(
    generator: FakeGenerator,
    prompt: JudgePrompt,
    view: View = "full",
    *,
    model: str = "m1",
    max_tokens: int = 400,
    max_prompt_tokens: int = 4000,
    temperature: float = 0.0,
    top_p: float = 1.0,
    is_bound: bool = True,
    cache: VerdictCache | None = None,
    **options: Any,
) -> LlmJudge:
    sampling = Sampling(max_tokens, temperature, top_p)
    transport = GeneratorTransport(generator, model, sampling, max_prompt_tokens, is_bound=is_bound)
    return LlmJudge("judge", transport, JudgeOptions(prompt, view, **options), cache)


def llm_judge(answer: Callable[[str], str], view: View = "causal", **options: Any) -> LlmJudge:
    return judge_on(
        FakeGenerator(answer=answer), PROMPT, view, **{"max_tokens": 200, "max_prompt_tokens": 200} | options
    )


def says_correct(prompt: str) -> str:
    """Calls every step it is asked about correct; the prompt ends with ``|first last|gold``."""
    first, last = map(int, prompt.split("|")[2].split())
    return "\n".join(f"{index} correct none" for index in range(first, last + 1))


# --- the LLM judge ---------------------------------------------------------------------------------------------------


def test_causal_view_hides_later_steps() -> None:
    prompts: list[str] = []

    def answer(prompt: str) -> str:
        prompts.append(prompt.strip())
        return says_correct(prompt)

    verdicts = llm_judge(answer).judge(CASES).judgements
    assert [[v.label for v in row] for row in verdicts] == [[1, 1, 1], [1], []]
    assert all(v.error_type is ErrorType.NONE and v.status is VerdictStatus.JUDGED for row in verdicts for v in row)
    assert verdicts[0][1].raw == "1 correct none"
    assert prompts == [
        "17 +25 *3|0 17+25=42;|0 0|",
        "17 +25 *3|0 17+25=42;\n1 42*3=27;|1 1|",
        "17 +25 *3|0 17+25=42;\n1 42*3=27;\n2 answer 27;|2 2|",
        "10 -8|0 10-8=2;|0 0|gold 2",
    ]


def test_full_view_is_one_call_a_case() -> None:
    def answer(prompt: str) -> str:
        return (
            "0 correct none\n1 wrong calculation\n2 wrong propagated" if prompt.startswith("17") else "0 correct none"
        )

    long, short, empty = llm_judge(answer, "full").judge(CASES).judgements
    assert [(v.label, v.error_type) for v in long] == [
        (1, ErrorType.NONE),
        (0, ErrorType.CALCULATION),
        (0, ErrorType.PROPAGATED),
    ]
    assert len({v.raw for v in long}) == 1
    assert short[0].label == 1
    assert empty == ()


def test_what_is_not_an_answer_is_a_status() -> None:
    judge = llm_judge(lambda prompt: "0 correct none" if prompt.startswith("10") else "all fine!", "full")
    long, short, _ = judge.judge(CASES).judgements
    assert [v.status for v in long] == [VerdictStatus.UNPARSABLE] * 3
    assert all(v.label is None and v.score is None and v.raw == "all fine!" for v in long)
    assert short[0].label == 1
    # Cut off in the middle of its answer: fails closed for every step of the call.
    cut_off = llm_judge(says_correct, "full", max_tokens=20).judge(CASES).judgements
    assert [v.status for v in cut_off[0]] == [VerdictStatus.UNPARSABLE] * 3
    # The third causal prompt is too long, and only that one.
    too_long = llm_judge(says_correct, max_prompt_tokens=40).judge(CASES).judgements
    assert [v.status for v in too_long[0]] == [VerdictStatus.JUDGED] * 2 + [VerdictStatus.REFUSED]
    lost = judge_on(FakeGenerator(answer=says_correct, faults=Faults(output="aborted")), PROMPT)
    assert [v.status for v in lost.judge(CASES).judgements[0]] == [VerdictStatus.ENGINE_LOST] * 3
    lost.close()
    with pytest.raises(EngineError):
        lost.judge(CASES)


def test_thinking_is_not_the_answer() -> None:
    judge = llm_judge(lambda prompt: "0 wrong logic? no.</think>\n" + says_correct(prompt), answer_after="</think>")
    assert [v.label for v in judge.judge(CASES).judgements[0]] == [1, 1, 1]
    unfinished = llm_judge(says_correct, answer_after="</think>").judge(CASES).judgements
    assert unfinished[0][0].status is VerdictStatus.UNPARSABLE


def test_version_names_all_that_matters() -> None:
    judges = [
        llm_judge(says_correct),
        llm_judge(says_correct, "full"),
        llm_judge(says_correct, model="m2"),
        llm_judge(says_correct, max_tokens=201),
        llm_judge(says_correct, answer_after="</think>"),
        llm_judge(says_correct, "full", windows=WindowLimits(steps=8)),
        llm_judge(says_correct, "full", windows=WindowLimits(tokens=8)),
        llm_judge(says_correct, "full", windows=WindowLimits(steps=8, looks_ahead=True)),
        llm_judge(says_correct, temperature=0.6),
        llm_judge(says_correct, temperature=0.6, top_p=0.95),
        llm_judge(says_correct, temperature=0.6, sample=1),
    ]
    assert judges[0].version == f"m1/test@{PROMPT.digest}/causal:200:200"  # as recorded by earlier runs
    assert len({judge.version for judge in judges}) == len(judges)
    assert judges[0].version == llm_judge(lambda prompt: "").version


CARRYING = replace(
    PROMPT, user="$problem|$steps|$first $last|$gold|$earlier", earlier="wrong: $verdicts", repair="again: $first $last"
)
LONG = JudgeCase("p", tuple(f"s{index}" for index in range(5)))


class Recorder(FakeGenerator):
    """Keeps what it was asked, call by call."""

    def __init__(self, answer: Callable[[str], str]) -> None:
        super().__init__(answer=answer)
        self.calls: list[list[GenerateRequest]] = []

    def generate(self, requests: Sequence[GenerateRequest]) -> list[Generation]:
        self.calls.append(list(requests))
        return super().generate(requests)

    def prompts(self) -> list[list[str]]:
        return [["".join(map(chr, r.prompt_token_ids)).rstrip("\n") for r in call] for call in self.calls]


def test_windows_wait_for_one_another_and_carry_what_was_wrong() -> None:
    def answer(prompt: str) -> str:
        first, last = map(int, prompt.split("|")[2].split())
        return "\n".join(f"{k} wrong logic" if k in (0, 3) else f"{k} correct none" for k in range(first, last + 1))

    generator = Recorder(answer)
    judge = judge_on(generator, CARRYING, windows=WindowLimits(steps=2))
    long, short = judge.judge([LONG, CASES[1]]).judgements
    assert [said.label for said in long] == [0, 1, 1, 0, 1]
    assert [said.label for said in short] == [0]
    assert generator.prompts() == [  # a wave at a time, all cases together
        ["p|0 s0;\n1 s1;|0 1||", "10 -8|0 10-8=2;|0 0|gold 2|"],
        ["p|0 s0;\n1 s1;\n2 s2;\n3 s3;|2 3||wrong: 0 logic"],
        ["p|0 s0;\n1 s1;\n2 s2;\n3 s3;\n4 s4;|4 4||wrong: 0 logic\n3 logic"],
    ]
    # The causal view is phi(x, STEP_{:k}) and nothing else: no verdict is carried, no call waits.
    generator.calls.clear()
    judge_on(generator, CARRYING, "causal").judge([LONG])
    assert [len(call) for call in generator.prompts()] == [5]
    assert not any("wrong:" in prompt for prompt in generator.prompts()[0])


def test_windows_without_a_place_for_earlier_verdicts_go_out_together() -> None:
    generator = Recorder(says_correct)
    judge = judge_on(generator, PROMPT, windows=WindowLimits(steps=2, looks_ahead=True))
    assert [said.label for said in judge.judge([LONG]).judgements[0]] == [1] * 5
    assert [[prompt.split("|")[2] for prompt in call] for call in generator.prompts()] == [["0 1", "2 3", "4 4"]]
    assert all("4 s4" in prompt for prompt in generator.prompts()[0])


def test_windows_by_tokens() -> None:
    case = JudgeCase("p", ("a" * 9, "b" * 9, "c" * 30, "d" * 9))
    generator = Recorder(says_correct)
    # The fake renders a character a token and one for the end of the message: 10, 10, 31 and 10.
    judge_on(generator, PROMPT, windows=WindowLimits(tokens=20)).judge([case])
    assert [[prompt.split("|")[2] for prompt in call] for call in generator.prompts()] == [["0 1", "2 2", "3 3"]]


def test_a_window_that_failed_fails_alone() -> None:
    def answer(prompt: str) -> str:
        return "no idea" if "|2 3|" in prompt or "again: 2 3" in prompt else says_correct(prompt)

    judged = judge_on(Recorder(answer), CARRYING, windows=WindowLimits(steps=2)).judge([LONG])
    rows, account = judged.judgements, judged.counts
    assert [said.label for said in rows[0]] == [1, 1, None, None, 1]
    assert [said.status for said in rows[0]][2:4] == [VerdictStatus.UNPARSABLE] * 2
    assert (account["calls"], account["calls.repair"]) == (4, 1)
    assert "calls.repaired" not in account


def test_one_repair_in_the_cluster() -> None:
    generator = Recorder(lambda prompt: "0 correct none" if "again:" in prompt else "<t>hm</t>It is right.")
    judge = judge_on(generator, CARRYING)
    judged = judge.judge([CASES[1]])
    rows, account = judged.judgements, judged.counts
    assert rows == ((replace(RIGHT, raw="0 correct none"),),)
    assert generator.prompts()[1] == ["10 -8|0 10-8=2;|0 0|gold 2|\n<t>hm</t>It is right.\nagain: 0 0"]
    assert (account["calls"], account["calls.repaired"]) == (2, 1)
    # Thoughts are not repeated to the judge; they may be long.
    generator.calls.clear()
    judge_on(generator, CARRYING, answer_after="</t>").judge([CASES[1]])
    assert generator.prompts()[1] == ["10 -8|0 10-8=2;|0 0|gold 2|\nIt is right.\nagain: 0 0"]


def test_a_json_prompt_binds_the_answer_to_its_schema() -> None:
    def answer(prompt: str) -> str:
        first, last = map(int, prompt.split("|")[2].split())
        items = [{"step": k, "reason": "", "error_type": "none", "correct": 1} for k in range(first, last + 1)]
        return json.dumps({"verdicts": items})

    generator = Recorder(answer)
    rows = judge_on(generator, replace(PROMPT, answer="json")).judge(CASES).judgements
    assert [[said.label for said in row] for row in rows] == [[1, 1, 1], [1], []]
    schemas = [json.loads(request.sampling.json_schema or "") for request in generator.calls[0]]
    assert [schema["properties"]["verdicts"]["maxItems"] for schema in schemas] == [3, 1]
    free = Recorder(says_correct)
    judge_on(free, PROMPT).judge(CASES)
    assert {request.sampling.json_schema for request in free.calls[0]} == {None}


def test_json_where_lines_were_asked_for_is_read() -> None:
    answer = {"verdicts": [{"step": 0, "reason": "", "error_type": "logic", "correct": 0}]}
    generator = Recorder(lambda prompt: f"```JSON\r\n{json.dumps(answer)}\r\n```")
    assert [said.label for said in judge_on(generator, PROMPT).judge(CASES[1:2]).judgements[0]] == [0]
    assert generator.calls[0][0].sampling.json_schema is None  # nothing bound it


def test_thoughts_are_not_bound_to_the_schema() -> None:
    def thinks(prompt: str) -> str:
        answer = {"step": 0, "reason": "checked", "error_type": "none", "correct": 1}
        fence = "```json\n{}\n```" if prompt.startswith("10") else "{}"
        return "Is {it} right? Yes.</think>\n\n" + fence.replace("{}", json.dumps({"verdicts": [answer]}))

    generator = Recorder(thinks)
    prompt = replace(PROMPT, answer="json", user="$problem|$steps|$first $last")
    judge = judge_on(generator, prompt, answer_after="</think>", is_bound=False)
    cases = [JudgeCase("17", ("a",)), JudgeCase("10", ("b",))]
    assert [said.label for row in judge.judge(cases).judgements for said in row] == [1, 1]
    assert {request.sampling.json_schema for request in generator.calls[0]} == {None}
    bound = judge_on(Recorder(thinks), prompt, answer_after="</think>")
    assert [row[0].status for row in bound.judge(cases).judgements] == [VerdictStatus.JUDGED, VerdictStatus.UNPARSABLE]
    assert bound.version != judge.version
    # It never stops thinking, or answers about something else: a status, as for every judge.
    for text in ("Is it right?", 'Yes.</think>{"verdicts": []}', "Yes.</think>```json\n{}\n```\n```json\n{}\n```"):
        silent = judge_on(Recorder(lambda prompt, text=text: text), prompt, answer_after="</think>", is_bound=False)
        assert silent.judge(cases[:1]).judgements[0][0].status is VerdictStatus.UNPARSABLE


def test_a_cached_judge_asks_once(tmp_path: Path) -> None:
    generator = Recorder(says_correct)
    first = judge_on(generator, PROMPT, cache=VerdictCache(tmp_path)).judge([*CASES, CASES[0]]).judgements
    assert [len(call) for call in generator.calls] == [2]  # the last case is the first again
    judged = judge_on(generator, PROMPT, cache=VerdictCache(tmp_path)).judge([*CASES, CASES[0]])
    again, account = judged.judgements, judged.counts
    assert again == first
    assert sum(len(call) for call in generator.calls) == 2
    assert account == {"calls": 3, "calls.stored": 3}
    changes: list[dict[str, Any]] = [
        {"model": "m2"},
        {"max_tokens": 401},
        {"temperature": 0.5},
        {"sample": 1},
        {"windows": WindowLimits(steps=2)},
    ]
    for change in changes:
        generator.calls.clear()
        judge_on(generator, PROMPT, **{"cache": VerdictCache(tmp_path)} | change).judge(CASES[:1])
        assert sum(len(call) for call in generator.calls) >= 1, change
    # What decides only how an answer is read, or what is sent at all, asks nothing anew.
    generator.calls.clear()
    judge_on(generator, PROMPT, cache=VerdictCache(tmp_path), max_prompt_tokens=3999).judge(CASES)
    assert sum(len(call) for call in generator.calls) == 0


def test_refused_and_lost_calls_are_not_stored(tmp_path: Path) -> None:
    lost = FakeGenerator(answer=says_correct, faults=Faults(output="aborted"))
    assert (
        judge_on(lost, PROMPT, cache=VerdictCache(tmp_path)).judge(CASES).judgements[0][0].status
        is VerdictStatus.ENGINE_LOST
    )
    short = judge_on(FakeGenerator(answer=says_correct), PROMPT, cache=VerdictCache(tmp_path), max_prompt_tokens=3)
    assert short.judge(CASES).judgements[0][0].status is VerdictStatus.REFUSED
    well = judge_on(FakeGenerator(answer=says_correct), PROMPT, cache=VerdictCache(tmp_path)).judge(CASES)
    assert [said.label for said in well.judgements[0]] == [1, 1, 1]
    assert "calls.stored" not in well.counts


# --- the process reward model ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def scorer(prm_path: str, engine_args: dict[str, Any]) -> Iterator[Any]:
    from bcpg_cluster.stages.judge.prm.vllm_scorer import VllmStepScorer

    options = {name: value for name, value in engine_args.items() if name != "enable_chunked_prefill"}
    judge = VllmStepScorer(prm_path, "prm", engine_args=options)
    yield judge
    judge.close()


def reference_scores(path: str, case: JudgeCase) -> list[float]:
    """P(good) at every separator, by transformers and a head of two linear layers."""
    import torch
    from safetensors.torch import load_file
    from transformers import AutoTokenizer, Qwen2Config, Qwen2Model

    tokenizer = AutoTokenizer.from_pretrained(path)

    tensors = load_file(Path(path) / "model.safetensors")
    model = Qwen2Model(Qwen2Config.from_pretrained(path)).eval()
    model.load_state_dict({n.removeprefix("model."): t for n, t in tensors.items() if n.startswith("model.")})
    messages = [
        {"role": "system", "content": "Please reason step by step, and put your final answer within \\boxed{}."},
        {"role": "user", "content": case.problem},
        {"role": "assistant", "content": "<extra_0>".join(case.steps) + "<extra_0>"},
    ]
    ids = torch.tensor([tokenizer.encode(tokenizer.apply_chat_template(messages, tokenize=False))])
    with torch.no_grad():
        hidden = model(ids).last_hidden_state
        hidden = torch.relu(hidden @ tensors["score.0.weight"].T + tensors["score.0.bias"])
        scores = (hidden @ tensors["score.2.weight"].T + tensors["score.2.bias"]).softmax(-1)[0, :, 1]
    marked: list[float] = scores[ids[0] == tokenizer.convert_tokens_to_ids("<extra_0>")].tolist()
    return marked


@pytest.mark.engine
def test_prm_scores_every_step(scorer: Any, prm_path: str) -> None:
    cases = [
        JudgeCase("17 +25 *3", ("17+25=42", "so 42*3=26,\nwhich is right", "答案是 26", "")),
        JudgeCase("10 -8", ("10-8=2",)),
    ]
    got = scorer.judge([cases[0], CASES[2], cases[1]]).judgements
    assert got[1] == ()
    for case, row in zip(cases, (got[0], got[2]), strict=True):
        assert [v.status for v in row] == [VerdictStatus.JUDGED] * len(case.steps)
        assert [v.score for v in row] == pytest.approx(reference_scores(prm_path, case), abs=1e-5)
        assert all(v.label is None for v in row)
    assert len({v.score for v in got[0]}) == 4
    # Newlines around a step are the segmenter's, not the model's.
    assert scorer.judge([JudgeCase("10 -8", ("\n10-8=2\n\n",))]).judgements[0][0].score == got[2][0].score


@pytest.mark.engine
def test_prm_refuses_what_it_cannot_align(scorer: Any) -> None:
    fine = JudgeCase("10 -8", ("10-8=2",))
    in_step = JudgeCase("10 -8", ("10-8=2", "or <extra_0> not"))
    in_question = JudgeCase("10 <extra_0> -8", ("10-8=2",))
    too_long = JudgeCase("10 -8", ("10-8=2 " * 200, "answer 2"))
    rows = scorer.judge([in_step, fine, in_question, too_long]).judgements
    refused = Judgement(VerdictStatus.REFUSED)
    assert (rows[0], rows[2], rows[3]) == ((refused,) * 2, (refused,), (refused,) * 2)
    assert rows[1][0].status is VerdictStatus.JUDGED


@pytest.mark.engine
def test_prm_needs_its_separator(prm_path: str) -> None:
    from bcpg_cluster.stages.judge.prm.vllm_scorer import VllmStepScorer
    from bcpg_cluster.stages.judge.prm.windows import judgement

    with pytest.raises(ConfigError, match="<extra_9>"):
        VllmStepScorer(prm_path, "prm", engine_args={}, separator="<extra_9>")
    assert judgement(float("nan")).status is VerdictStatus.UNPARSABLE
    assert judgement(1.5).status is VerdictStatus.UNPARSABLE
    assert judgement(0.0).score == 0.0


@pytest.mark.engine
def test_causal_calls_reach_the_bound_of_the_prefix_cache(tied_engine: Any) -> None:
    transport = GeneratorTransport(tied_engine, "m", Sampling(2, 0.0), tied_engine.max_model_len - 2)
    judge = LlmJudge(
        "judge", transport, JudgeOptions(replace(PROMPT, repair="", user="$problem $steps|$first $last"), "causal")
    )
    # Responses to two problems, in turns: the calls about one problem have to come together.
    steps = tuple(f"{k}+1={k + 1}" for k in range(12))
    cases = [JudgeCase(f"problem {n % 2} " + "7 +" * 20, (*steps[: 6 + n], "end")) for n in range(6)]
    counts = judge.judge(cases).counts
    assert counts["prompt_tokens.shareable"] > 0.3 * counts["prompt_tokens"]
    assert counts["prompt_tokens.cached"] >= 0.9 * counts["prompt_tokens.shareable"]


# --- the truth and the fake ------------------------------------------------------------------------------------------


def test_chain_truth_judges_chains_alone() -> None:
    judge: Judge = TaskTruth("chain")
    rows = judge.judge([*CASES, JudgeCase("What is 2+2?", ("4", "5"))]).judgements
    assert [[v.label for v in row] for row in rows[:3]] == [[1, 0, 0], [1], []]
    assert rows[0][0] == RIGHT
    assert rows[0][1].error_type is ErrorType.CALCULATION
    assert rows[3] == (Judgement(VerdictStatus.REFUSED),) * 2
    judge.close()


def test_fake_judge_has_the_quality_it_is_given() -> None:
    import random

    from bcpg_cluster.assets.chain.task import draw_chain

    rng = random.Random(0)
    cases = []
    for _ in range(2000):
        chain = draw_chain(rng, 4, 6)
        cases.append(JudgeCase(chain.question, tuple(draw_solution(chain, 0.7, rng).split("\n"))))
    truths = [v.label for row in TaskTruth("chain").judge(cases).judgements for v in row]
    base_rate = sum(label or 0 for label in truths) / len(truths)
    judge = FakeJudge(recall=0.8, precision=0.9, base_rate=base_rate)
    verdicts = [v.label for row in judge.judge(cases).judgements for v in row]
    assert verdicts == [v.label for row in judge.judge(cases).judgements for v in row]
    both = sum(said == truth == 1 for said, truth in zip(verdicts, truths, strict=True))
    assert both / sum(label or 0 for label in truths) == pytest.approx(0.8, abs=0.02)
    assert both / sum(label or 0 for label in verdicts) == pytest.approx(0.9, abs=0.02)
    other = FakeJudge("another", recall=0.8, precision=0.9, base_rate=base_rate)
    assert [v.label for row in other.judge(cases).judgements for v in row] != verdicts


def test_fake_judge_options() -> None:
    perfect = FakeJudge(recall=1.0, precision=1.0, scores=True).judge(CASES).judgements
    assert [[v.score for v in row] for row in perfect] == [[0.9, 0.1, 0.1], [0.9], []]
    assert FakeJudge(truth=lambda case: [True] * len(case.steps), recall=1.0).judge(CASES).judgements[0][2].label == 1
    broken = FakeJudge(faults=Faults(output="garbage"))
    assert broken.judge(CASES).judgements[0][0].status is VerdictStatus.UNPARSABLE
    with pytest.raises(EngineError):
        FakeJudge(faults=Faults(fail_on_call=1)).judge(CASES)
    with pytest.raises(ValueError, match="impossible"):
        FakeJudge(recall=1.0, precision=0.1)
