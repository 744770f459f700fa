"""The contract of rewards.protocol.Verifier, run on every implementation, and hand cases of each.

Your own verifier takes part with ``BCPG_VERIFIER=package.module:function pytest tests/contract/test_verifiers.py``, where the
function takes nothing and returns a ``bcpg_cluster.stages.verify.contract.Subject``.
"""

from __future__ import annotations

import importlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bcpg_cluster.errors import ConfigError, DataError, EngineError
from bcpg_cluster.records import OutcomeStatus, StopReason
from bcpg_cluster.stages.verify import contract, math_answer
from bcpg_cluster.stages.verify.code.code_tests import Case, CodeTests
from bcpg_cluster.stages.verify.code.limits import Limits
from bcpg_cluster.stages.verify.code.verifier import CodeVerifier
from bcpg_cluster.stages.verify.exact import ExactVerifier, read_number
from bcpg_cluster.stages.verify.math_answer import MathVerifier
from bcpg_cluster.stages.verify.protocol import Verification, Verifier
from bcpg_cluster.stages.verify.user_function import FunctionVerifier

STOP, LENGTH, ABORTED = StopReason.STOP, StopReason.LENGTH, StopReason.ABORTED
HARD = r"\boxed{\int_0^1 \sin(x^x) e^{x^{x^3}} dx}"  # takes sympy far longer than the limits below
ENDLESS = r"\boxed{\sum_{k=1}^{10^{9}} \frac{1}{k^{k}}}"
SURD, TWO_SURDS = r"\boxed{2\sqrt{2}}", r"\sqrt{8}"  # algebra: asks the process


@dataclass(frozen=True)
class Subject:
    """An implementation and how a response to it says its answer."""

    verifier: Verifier
    say: Callable[[str], str]


@pytest.fixture(scope="module")
def math_verifier() -> Iterator[MathVerifier]:
    verifier = MathVerifier(time_limit_s=60.0)
    yield verifier
    verifier.close()


@pytest.fixture(params=["exact", "math"])
def subject(request: pytest.FixtureRequest) -> Subject:
    if request.param == "exact":
        return Subject(ExactVerifier(r"answer (\S+)", numeric=True), "so the answer {}\n".format)
    return Subject(request.getfixturevalue("math_verifier"), "so it is \\boxed{{{}}}\n".format)


def check(result: Verification, status: OutcomeStatus, reward: float | None) -> None:
    assert (result.status, result.reward) == (status, reward)
    assert (result.extracted is not None) == (status is OutcomeStatus.VERIFIED)


# --- the contract, as anybody can run it

ADD = CodeTests("function", (Case([1, 2], 3), Case([2, 2], 4)), entry_point="add").to_json()
ADDS = "so\n```python\ndef add(a, b):\n    return a + b\n```\n"

MADE = """
import os, time
print("imports may talk")
def last_word(answer, gold): print("so may calls"); return float(answer.split()[-1] == gold)
def half(answer, gold): return 0.5
def cannot_tell(answer, gold): return None
def fails(answer, gold): raise RuntimeError(answer)
def too_much(answer, gold): return 1.5
def no_number(answer, gold): return "right"
def nan(answer, gold): return float("nan")
def hangs(answer, gold): time.sleep(0 if answer == "quick" else 1000); return True
def dies(answer, gold): os._exit(1)
def of_three(a, b, c): return 1.0
text = "not a function"
"""


@pytest.fixture(scope="module")
def code_verifier() -> CodeVerifier:
    return CodeVerifier(Limits(cpu_s=1, wall_s=60.0), allow_unsandboxed=True)


@pytest.fixture(scope="module")
def user_function(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., FunctionVerifier]]:
    """Makes verifiers from a module written here; ``MADE`` says what its functions do."""
    folder = tmp_path_factory.mktemp("user")
    (folder / "my_rewards.py").write_text(MADE)
    verifiers: list[FunctionVerifier] = []

    def make(name: str, **options: float) -> FunctionVerifier:
        verifiers.append(FunctionVerifier(name, **options))  # type: ignore[arg-type]
        return verifiers[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        yield make
    for verifier in verifiers:
        verifier.close()


@pytest.fixture(params=["exact", "math", "code", "function", "yours"])
def contract_subject(request: pytest.FixtureRequest) -> contract.Subject:
    if request.param == "exact":
        return contract.Subject(ExactVerifier(r"answer (\S+)", numeric=True), "18", "answer 18\n", "answer 19\n")
    if request.param == "math":
        verifier = request.getfixturevalue("math_verifier")
        return contract.Subject(verifier, "18", "so \\boxed{18}", "\\boxed{19}", bad_golds=("", " ", "\\frac{"))
    if request.param == "code":
        bad = ("", "{}", "[]", '{"style": "stdin"}', '{"style": "function", "cases": [{"input": [1], "output": 1}]}')
        verifier = request.getfixturevalue("code_verifier")
        return contract.Subject(verifier, ADD, ADDS, ADDS.replace("+", "-"), bad_golds=bad)
    if request.param == "function":
        return contract.Subject(
            request.getfixturevalue("user_function")("my_rewards:last_word"), "18", "so 18", "so 19"
        )
    if "BCPG_VERIFIER" not in os.environ:
        pytest.skip("set BCPG_VERIFIER to run it on a verifier of your own")
    module, _, name = os.environ["BCPG_VERIFIER"].partition(":")
    made: contract.Subject = getattr(importlib.import_module(module), name)()
    return made


@pytest.mark.parametrize("check_contract", contract.CHECKS, ids=lambda check: check.__name__)
def test_the_contract(contract_subject: contract.Subject, check_contract: Callable[[contract.Subject], None]):
    check_contract(contract_subject)


class Careless:
    """What the contract is there to find: raises, calls everything right, makes labels of failures."""

    def verify(self, response: str, gold: str, stop_reason: StopReason) -> Verification:
        return Verification(OutcomeStatus.VERIFIED, float(response[0] != "}"), "x")

    def check_gold(self, gold: str) -> None:
        return None

    def close(self) -> None:
        return None


def test_the_contract_finds_a_careless_verifier():
    found = [line.split(":")[0] for line in contract.failures(contract.Subject(Careless(), "18", "18", "}"))]
    wanted = [
        "right_is_1",
        "wrong_is_0",
        "nothing_is_no_answer",
        "aborted_has_no_reward",
        "a_bad_gold_is_never_a_label",
    ]
    assert found == wanted


# --- the contract's finer points, for verifiers that read an answer


def test_right_and_wrong(subject: Subject):
    check(subject.verifier.verify(subject.say("18"), "18", STOP), OutcomeStatus.VERIFIED, 1.0)
    check(subject.verifier.verify(subject.say("18.0"), "18", STOP), OutcomeStatus.VERIFIED, 1.0)
    check(subject.verifier.verify(subject.say("19"), "18", STOP), OutcomeStatus.VERIFIED, 0.0)


def test_the_extracted_answer_is_what_was_said(subject: Subject):
    assert subject.verifier.verify(subject.say("19"), "18", STOP).extracted == "19"


@pytest.mark.parametrize("response", ["", " \n", "I do not know", "<think>hm</think>", "<think>hm</think>\n\n"])
def test_no_answer(subject: Subject, response: str):
    check(subject.verifier.verify(response, "18", STOP), OutcomeStatus.NO_ANSWER, 0.0)
    check(subject.verifier.verify(response, "18", LENGTH), OutcomeStatus.TRUNCATED, 0.0)


def test_thinking_that_never_ends_has_no_answer(subject: Subject):
    response = "<think>" + subject.say("18")
    check(subject.verifier.verify(response, "18", STOP), OutcomeStatus.NO_ANSWER, 0.0)
    check(subject.verifier.verify(response, "18", LENGTH), OutcomeStatus.TRUNCATED, 0.0)


def test_only_what_follows_the_last_think_end_counts(subject: Subject):
    verify = subject.verifier.verify
    check(verify(subject.say("18") + "</think>" + subject.say("17"), "18", STOP), OutcomeStatus.VERIFIED, 0.0)
    check(verify(subject.say("17") + "</think>" + subject.say("18"), "18", STOP), OutcomeStatus.VERIFIED, 1.0)
    check(verify(subject.say("18") + "</think> done", "18", STOP), OutcomeStatus.NO_ANSWER, 0.0)


def test_cut_off_but_answered_is_verified(subject: Subject):
    check(subject.verifier.verify(subject.say("18") + "and so", "18", LENGTH), OutcomeStatus.VERIFIED, 1.0)
    check(subject.verifier.verify(subject.say("19") + "and so", "18", LENGTH), OutcomeStatus.VERIFIED, 0.0)


def test_cut_off_within_the_answer_is_truncated(subject: Subject):
    response = subject.say("18").strip().rstrip("}")  # more digits may have been to come
    check(subject.verifier.verify(response, "18", LENGTH), OutcomeStatus.TRUNCATED, 0.0)


def test_an_aborted_generation_has_no_reward(subject: Subject):
    check(subject.verifier.verify(subject.say("18"), "18", ABORTED), OutcomeStatus.ENGINE_LOST, None)
    check(subject.verifier.verify("", "18", ABORTED), OutcomeStatus.ENGINE_LOST, None)


def test_golds_are_checked_before_a_run(subject: Subject):
    for good in ("18", "-3", "1/2", "1,234"):
        subject.verifier.check_gold(good)
    for bad in ("", "  "):
        with pytest.raises(DataError) as error:
            subject.verifier.check_gold(bad)
        assert error.value.rule and error.value.remedy


def test_verify_never_raises_over_its_input(subject: Subject):
    for response in ("answer $", "answer 1/0", "\\boxed{", "\\boxed{\\frac{1}{0}}", "\x00\ud83c", "}" * 500, "$" * 999):
        for gold in ("18", "\\frac{"):
            result = subject.verifier.verify(response, gold, STOP)
            assert (result.reward is None) == (result.status is OutcomeStatus.VERIFIER_ERROR)


def test_many_threads_get_their_own_answers(subject: Subject):
    def ask(number: int) -> float | None:
        return subject.verifier.verify(subject.say(str(number % 7)), "3", STOP).reward

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(ask, range(56))) == [float(number % 7 == 3) for number in range(56)]


# --- math-verify


@pytest.mark.parametrize(
    ("gold", "response", "reward"),
    [
        ("\\frac{1}{2}", "\\boxed{0.5}", 1.0),
        ("1/2", "\\boxed{\\frac{2}{4}}", 1.0),
        ("$\\frac{1}{2}$", "The answer is $1/2$.", 1.0),
        ("\\sqrt{8}", "\\boxed{2\\sqrt{2}}", 1.0),
        ("\\sqrt{8}", "\\boxed{2\\sqrt{3}}", 0.0),
        ("[0,1)", "\\boxed{[0,1)}", 1.0),
        ("[0,1)", "\\boxed{[0,1]}", 0.0),
        ("(-\\infty, 3]", "\\boxed{(-\\infty, 3]}", 1.0),
        ("50\\%", "\\boxed{0.5}", 1.0),
        ("50\\%", "\\boxed{50\\%}", 1.0),
        ("x^2-1", "\\boxed{(x-1)(x+1)}", 1.0),
        ("x^2-1", "\\boxed{(x-1)(x+2)}", 0.0),
        ("\\{1,2\\}", "\\boxed{\\{2,1\\}}", 1.0),
        ("(1,2)", "\\boxed{(2,1)}", 0.0),
        ("1,234", "\\boxed{1234}", 1.0),
        ("\\$18", "\\boxed{18}", 1.0),
        ("3", "\\boxed{x=3}", 1.0),
        ("2^{10}", "it is 1024", 1.0),
        ("\\pi", "\\boxed{3.14}", 0.0),
        ("\\text{Monday}", "\\boxed{\\text{Monday}}", 1.0),
        ("\\begin{pmatrix}1\\\\2\\end{pmatrix}", "\\boxed{\\begin{pmatrix}1\\\\2\\end{pmatrix}}", 1.0),
        ("18", "$17$ is wrong, \\boxed{18}, not $19$", 1.0),  # boxed first
        ("18", "\\boxed{17} or \\boxed{18}", 0.0),  # no hedging
        ("18", "first 17, then 18", 1.0),  # without a box the last one
    ],
)
def test_math_by_hand(math_verifier: MathVerifier, gold: str, response: str, reward: float):
    check(math_verifier.verify(response, gold, STOP), OutcomeStatus.VERIFIED, reward)


def test_the_last_number_of_a_cut_off_response_is_no_answer(math_verifier: MathVerifier):
    check(math_verifier.verify("we get x = 18", "18", LENGTH), OutcomeStatus.TRUNCATED, 0.0)
    check(math_verifier.verify("\\boxed{\\frac{1}{2}} so", "0.5", LENGTH), OutcomeStatus.VERIFIED, 1.0)


def test_a_prompt_that_opens_thinking():
    verifier = MathVerifier(prompt_opens_thinking=True)
    try:
        check(verifier.verify("\\boxed{18}", "18", STOP), OutcomeStatus.NO_ANSWER, 0.0)
        check(verifier.verify("\\boxed{18}", "18", LENGTH), OutcomeStatus.TRUNCATED, 0.0)
        check(verifier.verify("hm</think>\\boxed{18}", "18", STOP), OutcomeStatus.VERIFIED, 1.0)
    finally:
        verifier.close()


def test_golds_that_math_verify_cannot_read(math_verifier: MathVerifier):
    for bad in ("\\frac{", "$", "\\boxed{}"):
        with pytest.raises(DataError, match="cannot be used"):
            math_verifier.check_gold(bad)
        check(math_verifier.verify("\\boxed{1}", bad, STOP), OutcomeStatus.VERIFIER_ERROR, None)


@pytest.mark.timeout(120)
def test_time_is_kept_from_outside_on_any_thread_and_the_next_call_works():
    verifier = MathVerifier()
    results: list[Verification] = []

    def ask() -> None:
        for response, limit_s in ((ENDLESS, 0.3), ("\\boxed{9}", 60.0), (HARD, 0.3), ("\\boxed{8}", 60.0)):
            verifier._process._time_limit_s = (
                limit_s  # short only where it has to run out, for the sake of busy machines
            )
            results.append(verifier.verify(response, "9", STOP))

    thread = threading.Thread(target=ask)
    thread.start()
    thread.join()
    verifier.close()
    check(results[0], OutcomeStatus.VERIFIER_ERROR, None)
    check(results[1], OutcomeStatus.VERIFIED, 1.0)
    assert results[2].status in (OutcomeStatus.VERIFIER_ERROR, OutcomeStatus.VERIFIED) and results[2].reward != 1.0
    check(results[3], OutcomeStatus.VERIFIED, 0.0)


def test_an_orphan_ends_by_itself(tmp_path):
    """The parent dies in the middle of a comparison that holds the interpreter lock for ever."""
    program = (
        "import os, threading, time\n"
        "from bcpg_cluster.records import StopReason\n"
        "from bcpg_cluster.stages.verify.math_answer import MathVerifier\n"
        "v = MathVerifier(time_limit_s=1.0)\n"
        "v.check_gold('\\\\pi')\n"
        f"threading.Thread(target=v.verify, args=({ENDLESS!r}, '9', StopReason.STOP), daemon=True).start()\n"
        "time.sleep(0.3)\n"
        "print(v._process.pid, flush=True)\n"
        "os._exit(0)\n"
    )
    pid = int(subprocess.run([sys.executable, "-c", program], capture_output=True, check=True, text=True).stdout)
    deadline = time.monotonic() + 30
    while _is_running(pid):
        assert time.monotonic() < deadline
        time.sleep(0.2)


def _is_running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        return state != "Z"
    except FileNotFoundError:
        return False


def test_a_tiny_limit_is_an_error_and_never_a_wrong_answer(monkeypatch: pytest.MonkeyPatch, tmp_path):
    """On a program that says "wrong" at once: no reply is read after the time, however quick it is."""
    reply = '{"status": "compared", "is_equal": false, "is_parsed": true, "why": ""}'
    (tmp_path / "quick.py").write_text(
        f"import sys\nprint('{{}}', flush=True)\nfor _ in sys.stdin: print('{reply}', flush=True)"
    )
    monkeypatch.setattr(math_answer, "_PROGRAM", tmp_path / "quick.py")
    verifier = MathVerifier(time_limit_s=1e-6)
    try:
        check(verifier.verify(SURD, TWO_SURDS, STOP), OutcomeStatus.VERIFIER_ERROR, None)
        with pytest.raises(DataError, match="no reply within"):
            verifier.check_gold(TWO_SURDS)
    finally:
        verifier.close()


def test_a_killed_process_costs_one_answer():
    verifier = MathVerifier(time_limit_s=60.0)
    try:
        check(verifier.verify(SURD, TWO_SURDS, STOP), OutcomeStatus.VERIFIED, 1.0)
        first = verifier._process.pid
        assert first is not None
        os.kill(first, signal.SIGKILL)
        check(verifier.verify(SURD, TWO_SURDS, STOP), OutcomeStatus.VERIFIER_ERROR, None)
        check(verifier.verify(SURD, TWO_SURDS, STOP), OutcomeStatus.VERIFIED, 1.0)
        assert verifier._process.pid not in (None, first)
    finally:
        verifier.close()


def test_close_ends_the_process_and_the_verifier():
    verifier = MathVerifier(time_limit_s=60.0)
    verifier.check_gold(TWO_SURDS)
    pid = verifier._process.pid
    verifier.close()
    verifier.close()
    assert pid is not None and not _is_running(pid)
    with pytest.raises(RuntimeError, match="closed"):
        verifier.verify(SURD, TWO_SURDS, STOP)


def test_a_process_that_cannot_start_is_not_the_responses_fault(monkeypatch: pytest.MonkeyPatch, tmp_path):
    (tmp_path / "broken.py").write_text("import math_verify_is_not_here")
    monkeypatch.setattr(math_answer, "_PROGRAM", tmp_path / "broken.py")
    with pytest.raises(EngineError, match="does not start"):
        MathVerifier().verify(SURD, TWO_SURDS, STOP)


def test_long_responses_pass_the_pipe(math_verifier: MathVerifier):
    response = "so " * 300_000 + "\\boxed{18}"
    check(math_verifier.verify(response, "18", STOP), OutcomeStatus.VERIFIED, 1.0)


def test_answers_it_cannot_parse_are_counted(math_verifier: MathVerifier):
    before = Counter(math_verifier.counts)
    verify = math_verifier.verify
    assert verify("\\boxed{\\frac{}{}}", "18", STOP).is_unparsed
    check(verify("\\boxed{???}", "18", STOP), OutcomeStatus.VERIFIED, 0.0)
    assert not verify("\\boxed{17}", "18", STOP).is_unparsed
    check(verify("\\boxed{}", "18", STOP), OutcomeStatus.NO_ANSWER, 0.0)
    check(verify("\\boxed{1}", "$", STOP), OutcomeStatus.VERIFIER_ERROR, None)
    assert Counter(math_verifier.counts) - before == {"unparsed": 2, "answer": 1, "no_answer": 1, "error": 1}


# --- code


def _code(text: str) -> str:
    return f"```python\n{text}\n```"


@pytest.mark.parametrize(
    ("code", "status", "reward"),
    [
        ("def add(a, b): return a + b\nif __name__ == '__main__': input()", OutcomeStatus.VERIFIED, 1.0),
        ("class Solution:\n    def add(self, a, b): print('hm'); return a + b", OutcomeStatus.VERIFIED, 1.0),
        ("def add(a, b): return 3", OutcomeStatus.VERIFIED, 0.0),  # only the first case
        ("def add(a, b): return '3'", OutcomeStatus.VERIFIED, 0.0),
        ("def add(a, b): return {a}", OutcomeStatus.VERIFIED, 0.0),  # no JSON value
        ("def plus(a, b): return a + b", OutcomeStatus.VERIFIED, 0.0),
        ("def add(a, b) return", OutcomeStatus.VERIFIED, 0.0),
        ("import sys; sys.exit(0)", OutcomeStatus.VERIFIED, 0.0),
        ("def add(a, b):\n    while True: pass", OutcomeStatus.VERIFIED, 0.0),
        ("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)", OutcomeStatus.VERIFIED, 0.0),
    ],
)
def test_code_as_a_function(code_verifier: CodeVerifier, code: str, status: OutcomeStatus, reward: float | None):
    check(code_verifier.verify(_code(code), ADD, STOP), status, reward)


def test_code_as_a_program(code_verifier: CodeVerifier):
    gold = CodeTests("stdin", (Case("1 2\n", "3\n"), Case("2 2\n", "4")), prelude="from math import *").to_json()
    right = "def main():\n    print(floor(sum(map(int, input().split()))))\nif __name__ == '__main__':\n    main()"
    check(code_verifier.verify(_code(right), gold, STOP), OutcomeStatus.VERIFIED, 1.0)
    check(code_verifier.verify(_code(right), gold, LENGTH), OutcomeStatus.VERIFIED, 1.0)
    check(code_verifier.verify(_code("print(3)"), gold, STOP), OutcomeStatus.VERIFIED, 0.0)
    check(code_verifier.verify(_code("print(3); print(4)"), gold, STOP), OutcomeStatus.VERIFIED, 0.0)
    check(code_verifier.verify(_code(right + "\nraise SystemExit(1)"), gold, STOP), OutcomeStatus.VERIFIED, 0.0)


def test_code_with_asserts_cannot_leave_early(code_verifier: CodeVerifier):
    gold = CodeTests("asserts", check="assert add(1, 2) == 3", prelude="def plus(a, b): return a + b").to_json()
    check(code_verifier.verify(_code("add = plus"), gold, STOP), OutcomeStatus.VERIFIED, 1.0)
    check(code_verifier.verify(_code("add = max"), gold, STOP), OutcomeStatus.VERIFIED, 0.0)
    for leave in ("import os\nos._exit(0)", "raise SystemExit", "def add(a, b): exit(0)"):
        check(code_verifier.verify(_code(leave), gold, STOP), OutcomeStatus.VERIFIED, 0.0)


def test_code_that_sleeps_is_wrong():
    verifier = CodeVerifier(Limits(cpu_s=5, idle_s=0.2), allow_unsandboxed=True)
    check(
        verifier.verify(_code("import time\ndef add(a, b): time.sleep(1000)"), ADD, STOP), OutcomeStatus.VERIFIED, 0.0
    )


@pytest.mark.parametrize(("is_wrong", "reward"), [(True, 0.0), (False, None)])
def test_code_out_of_wall_time_is_wrong_by_option(is_wrong: bool, reward: float | None):
    verifier = CodeVerifier(Limits(cpu_s=5, wall_s=0.2), overdue_is_wrong=is_wrong, allow_unsandboxed=True)
    found = verifier.verify(_code("import time\ndef add(a, b): time.sleep(1000)"), ADD, STOP)
    check(found, OutcomeStatus.VERIFIED if is_wrong else OutcomeStatus.VERIFIER_ERROR, reward)
    assert verifier.counts == ({} if is_wrong else {"overdue": 1})


def test_code_after_thinking_only(code_verifier: CodeVerifier):
    verifier = CodeVerifier(allow_unsandboxed=True, prompt_opens_thinking=True)
    check(verifier.verify(ADDS, ADD, STOP), OutcomeStatus.NO_ANSWER, 0.0)
    check(verifier.verify("hm</think>" + ADDS, ADD, STOP), OutcomeStatus.VERIFIED, 1.0)
    check(code_verifier.verify(ADDS.strip().rstrip("`"), ADD, LENGTH), OutcomeStatus.TRUNCATED, 0.0)


@given(st.lists(st.tuples(st.text(), st.text()), min_size=1), st.text())
def test_code_tests_round_trip(cases: list[tuple[str, str]], prelude: str):
    tests = CodeTests("stdin", tuple(Case(*case) for case in cases), prelude=prelude)
    assert CodeTests.from_json(tests.to_json()) == tests


# --- a function of the user's


@pytest.mark.parametrize("name", ["cannot_tell", "fails", "too_much", "no_number", "nan", "dies"])
def test_functions_without_a_verdict_give_no_reward(user_function: Callable[..., FunctionVerifier], name: str):
    verifier = user_function(f"my_rewards:{name}")
    check(verifier.verify("18", "18", STOP), OutcomeStatus.VERIFIER_ERROR, None)
    verifier.check_gold("18")


def test_a_function_out_of_time(user_function: Callable[..., FunctionVerifier]):
    verifier = user_function("my_rewards:hangs", time_limit_s=0.3)
    check(verifier.verify("slow", "18", STOP), OutcomeStatus.VERIFIER_ERROR, None)
    verifier._process._time_limit_s = 60.0
    check(verifier.verify("quick", "18", STOP), OutcomeStatus.VERIFIED, 1.0)


def test_scores_meet_a_threshold(user_function: Callable[..., FunctionVerifier]):
    check(user_function("my_rewards:half").verify("x", "18", STOP), OutcomeStatus.VERIFIED, 0.0)
    check(user_function("my_rewards:half").verify("x", "18", LENGTH), OutcomeStatus.TRUNCATED, 0.0)
    check(user_function("my_rewards:half", threshold=0.5).verify("x", "18", LENGTH), OutcomeStatus.VERIFIED, 1.0)


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("my_rewards", "not an import path"),
        ("my_rewards.last_word", "not an import path"),
        ("my_rewards:none", "my_rewards has no none"),
        ("my_rewards:text", "cannot be called"),
        ("my_rewards:of_three", r"takes \(a, b, c\)"),
        ("nowhere/my_rewards.py:f", "there is no file .*nowhere/my_rewards.py"),
        ("no_such_module:f", "No module named"),
    ],
)
def test_functions_that_are_not_there(user_function: Callable[..., FunctionVerifier], name: str, problem: str):
    with pytest.raises(ConfigError, match=problem):
        user_function(name).check_gold("18")


# --- exact


@pytest.mark.parametrize(
    ("gold", "response", "reward"),
    [
        ("18", "17+1=18\nanswer 18", 1.0),
        ("18", "answer 17\nwait\nanswer 18", 1.0),  # the last one
        ("18", "answer 18\nanswer 17", 0.0),
        ("18", "answer 036/2", 1.0),
        ("18", "answer 18.", 1.0),
        ("1234.5", "answer 1,234.50", 1.0),
        ("-1/2", "answer -.5", 1.0),
        ("18", "answer eighteen", 0.0),
        ("18", "answer 18/0", 0.0),
        ("0", "answer -0", 1.0),
    ],
)
def test_exact_by_hand(gold: str, response: str, reward: float):
    check(ExactVerifier(r"answer (\S+)", numeric=True).verify(response, gold, STOP), OutcomeStatus.VERIFIED, reward)


def test_exact_as_text():
    verifier = ExactVerifier(r"answer (.+)", numeric=False)
    check(verifier.verify("answer blue cat ", "blue cat", STOP), OutcomeStatus.VERIFIED, 1.0)
    check(verifier.verify("answer 18.0", "18", STOP), OutcomeStatus.VERIFIED, 0.0)
    verifier.check_gold("blue cat")
    with pytest.raises(DataError, match="not a number"):
        ExactVerifier(r"answer (.+)", numeric=True).check_gold("blue cat")


@pytest.mark.parametrize("pattern", ["answer", "(a)(b)", "("])
def test_patterns_without_exactly_one_group(pattern: str):
    with pytest.raises(ConfigError):
        ExactVerifier(pattern, numeric=True)


@pytest.mark.parametrize("text", ["", "x", "1e9", "1,23", "1//2", "--1", "1/0", "1 2", "\u0663", "9" * 5000, ".", "1."])
def test_what_is_a_number(text: str):
    assert (read_number(text) is None) == (text != "1.")


@given(st.fractions())
def test_numbers_round_trip(value):
    assert read_number(str(value)) == value
    assert read_number(f"{value.numerator:,}") == value.numerator
