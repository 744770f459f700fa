"""Programs in a judge's critique: run in the sandbox, at most three, and never a label made of what the machine did."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from bcpg_cluster.config.embedded import resolve_asset
from bcpg_cluster.errors import ConfigError
from bcpg_cluster.records import VerdictStatus
from bcpg_cluster.run.build.judges import load_judge_prompt
from bcpg_cluster.stages.generate.vllm_generator import VllmGenerator
from bcpg_cluster.stages.judge.llm.families.run_code import MOST_OUTPUT_CHARS, MOST_PROGRAMS, CodeRunning
from bcpg_cluster.stages.judge.llm.llm_judge import JudgeOptions, LlmJudge
from bcpg_cluster.stages.judge.llm.transport import Ask, Reply
from bcpg_cluster.stages.judge.protocol import JudgeCase
from bcpg_cluster.stages.verify.code.limits import Limits, RunResult, RunStatus
from bcpg_cluster.stages.verify.code.sandbox import Sandbox

ANALYSIS = "<analyze>\nhm\n</analyze>\n<verify>\n"
END = "\n</verify>\n<output>\n**Judgement**: $\\boxed{Yes}$\n</output>"


def program(source: str) -> str:
    return f"```python\n{source}\n```"


def printed(text: str) -> str:
    return f"\n[Code Output]\n\n```\n{text}\n```"


class Continuing:
    """Gives its answers one after another; what it was asked to continue is kept."""

    model, decoding, is_bound, enforces = "m1", {"temperature": 0.0}, True, True

    def __init__(self, *answers: str | Reply) -> None:
        self._answers = list(answers)
        self.begun: list[str | None] = []

    def settings(self, *, sample: int, is_json: bool) -> str:
        return f"s{sample}"

    def count_tokens(self, text: str) -> int:
        return len(text)

    def answers(self, asks: Sequence[Ask]) -> Iterator[tuple[int, Reply]]:
        for index, ask in enumerate(asks):
            last = ask.messages[-1]
            self.begun.append(last["content"] if last["role"] == "assistant" else None)
            said = self._answers.pop(0)
            yield index, said if isinstance(said, Reply) else Reply(said, prompt_tokens=10, answer_tokens=3)

    def close(self) -> None:
        pass


@pytest.fixture(scope="module")
def sandbox() -> Sandbox:
    return Sandbox(Limits(cpu_s=1), packages=(), allow_unsandboxed=True)


def ask(transport: Any) -> Reply:
    ((_, reply),) = transport.answers([Ask(({"role": "user", "content": "1+1=2?"},))])
    return reply


def test_the_judge_continues_from_what_its_program_prints(sandbox: Sandbox) -> None:
    imagined = ANALYSIS + program("print(20 + 3)") + printed("24") + "\nso it is 24" + END
    inner = Continuing(imagined, "It printed 23." + END)
    reply = ask(CodeRunning(inner, sandbox))
    real = ANALYSIS + program("print(20 + 3)") + printed("23") + "\n"
    assert inner.begun == [None, real]
    assert reply.text == real + "It printed 23." + END
    assert (reply.prompt_tokens, reply.answer_tokens) == (20, 6)


def test_a_judge_that_foresaw_the_output_is_not_asked_again(sandbox: Sandbox) -> None:
    text = ANALYSIS + program("print(23)") + printed("23") + "\n" + program("print(5)") + printed("5") + END
    inner = Continuing(text)
    assert ask(CodeRunning(inner, sandbox)).text == text
    assert inner.begun == [None]


@pytest.mark.parametrize(
    ("source", "shown"),
    [
        ("1 / 0", "Code execute Error: ZeroDivisionError: division by zero"),
        ("while True: pass", "Code execute time out: cpu_limit"),
        ("print('x' * 9000)", "x" * MOST_OUTPUT_CHARS),
        ("raise SystemExit(3)", "Code execute Error: exit code 3"),
    ],
)
def test_what_a_judge_is_told_of_a_program(sandbox: Sandbox, source: str, shown: str) -> None:
    inner = Continuing(ANALYSIS + program(source), END)
    assert ask(CodeRunning(inner, sandbox)).text == ANALYSIS + program(source) + printed(shown) + "\n" + END


def test_no_more_than_three_programs_are_run(sandbox: Sandbox) -> None:
    again = program("print(7)") + printed("8")
    inner = Continuing(ANALYSIS + again, *[again] * 9)
    text = ask(CodeRunning(inner, sandbox)).text
    assert len(inner.begun) == 1 + MOST_PROGRAMS
    assert text.count(printed("7")) == MOST_PROGRAMS
    assert text.endswith(printed("8"))  # the fourth is left with what the judge expected


@pytest.mark.parametrize("text", ["no program" + END, program("print(1)") + END, ANALYSIS + END + program("print(1)")])
def test_programs_elsewhere_are_not_run(sandbox: Sandbox, text: str) -> None:
    inner = Continuing(text)
    assert ask(CodeRunning(inner, sandbox)).text == text
    assert len(inner.begun) == 1


class Starved(Sandbox):
    """A sandbox on a machine without a free processor."""

    def __init__(self) -> None:
        pass

    def run(self, *_: Any, **__: Any) -> RunResult:
        return RunResult(RunStatus.STARVED, None, b"", b"", message="no processor")


def test_what_the_machine_did_is_no_verdict(sandbox: Sandbox) -> None:
    inner = Continuing(ANALYSIS + program("print(1)") + printed("1") + END)
    judge = LlmJudge("j", CodeRunning(inner, Starved()), JudgeOptions(load_judge_prompt("embedded:genprm"), "causal"))
    ((said,),) = judge.judge([JudgeCase("1+1?", ("1+1=2",))]).judgements
    assert said.status is VerdictStatus.ENGINE_LOST
    assert said.raw == "the sandbox: starved no processor"
    lost = Continuing(ANALYSIS + program("print(1)"), Reply("gone", VerdictStatus.TIMEOUT))
    assert ask(CodeRunning(lost, sandbox)).failure is VerdictStatus.TIMEOUT


def test_a_reply_counts_the_tokens_of_all_its_parts(sandbox: Sandbox) -> None:
    first = Reply(
        ANALYSIS + program("print(2)"), None, 10, 3, cached_tokens=4, shareable_tokens=6, cost=0.5, num_retries=1
    )
    rest = Reply(END, None, 30, 5, cached_tokens=24, shareable_tokens=28, cost=0.25)
    reply = ask(CodeRunning(Continuing(first, rest), sandbox))
    assert (reply.prompt_tokens, reply.answer_tokens) == (40, 8)
    assert (reply.cached_tokens, reply.shareable_tokens) == (28, 34)
    assert (reply.cost, reply.num_retries) == (0.75, 1)


def test_a_judge_that_runs_programs_is_another_judge(sandbox: Sandbox) -> None:
    options = JudgeOptions(load_judge_prompt("embedded:genprm"), "causal")
    plain, running = Continuing(), CodeRunning(Continuing(), sandbox)
    assert LlmJudge("j", running, options).version == LlmJudge("j", plain, options).version + ":code"
    assert running.decoding == {"temperature": 0.0, "run_code": True}  # the cache's keys differ, too


def test_a_message_that_has_begun_is_continued() -> None:
    from transformers import AutoTokenizer

    generator = object.__new__(VllmGenerator)  # its chat template is all that is needed of it
    generator._tokenizer = AutoTokenizer.from_pretrained(resolve_asset("embedded:sums/judge"))
    generator._tokenizer_lock = threading.Lock()
    turns = [{"role": "user", "content": "12 + 3"}, {"role": "assistant", "content": "15\n"}]
    read = [generator._tokenizer.decode(list(generator.render(turns[:end]))) for end in (1, 2)]
    assert read == ["<|user|>12 + 3<|end|><|assistant|>", "<|user|>12 + 3<|end|><|assistant|>15\n"]


def test_run_code_is_for_genprm_in_the_cluster(make_config: Any) -> None:
    from bcpg_cluster.run.preflight.judges import check_judge

    def section(**more: Any) -> Any:
        judges = {"j": {"kind": "llm", "model": "m", "view": "causal", "run_code": True} | more}
        return make_config(judges=judges, pools={}).judges["j"]

    with pytest.raises(ConfigError, match=r"judges\.j: run_code, and a prompt with answer = 'rprm'"):
        check_judge("j", section(prompt="embedded:rprm"))
    with pytest.raises(ConfigError, match="run_code is for judges of kind 'llm'"):
        section(kind="openai", endpoint={"base_url": "http://127.0.0.1:9/v1"}, prompt="embedded:genprm")
