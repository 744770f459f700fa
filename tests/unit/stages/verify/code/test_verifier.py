"""stages/verify/code/verifier.py: right programs are right, wrong ones wrong, and what is neither program's doing has no reward."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from bcpg_cluster.errors import DataError
from bcpg_cluster.records import OutcomeStatus, StopReason
from bcpg_cluster.stages.verify.code.code_tests import Case, CodeTests
from bcpg_cluster.stages.verify.code.limits import Limits, RunResult, RunStatus
from bcpg_cluster.stages.verify.code.sandbox import Sandbox
from bcpg_cluster.stages.verify.code.verifier import CodeVerifier

CASES = Path(__file__).parents[4] / "data/code_cases"
RIGHT = (CASES / "right_asserts.txt").read_text().strip().removesuffix("===").split("\n===\n")  # tests, ---, a program


@pytest.fixture(scope="module")
def verifier() -> CodeVerifier:
    return CodeVerifier(Limits(cpu_s=5), allow_unsandboxed=True)


def reward(verifier: CodeVerifier, code: str, tests: CodeTests | str) -> float | None:
    gold = tests if isinstance(tests, str) else tests.to_json()
    found = verifier.verify(f"```python\n{code}\n```", gold, StopReason.STOP)
    assert (found.reward is None) == (found.status is OutcomeStatus.VERIFIER_ERROR), found
    return found.reward


def asserts(check: str, **more: str) -> CodeTests:
    return CodeTests("asserts", check=check, **more)


@pytest.mark.parametrize("path", sorted(CASES.glob("*.json")), ids=lambda path: path.stem)
def test_a_case(verifier: CodeVerifier, path: Path):
    case: dict[str, Any] = json.loads(path.read_text())
    found = verifier.verify(case["response"], case["gold"], StopReason(case["stop_reason"]))
    assert found.reward == case["expected_reward"]


def test_an_expected_output_above_the_limit(verifier: CodeVerifier):
    wanted = "".join(f"{n}\n" for n in range(200_000))
    assert len(wanted) > verifier._sandbox.limits.output_bytes
    tests = CodeTests("stdin", (Case("200000\n", wanted),))
    verifier.check_gold(tests.to_json())
    assert reward(verifier, "print(*range(int(input())), sep='\\n')", tests) == 1.0
    assert reward(verifier, "print(*range(1, int(input()) + 1), sep='\\n')", tests) == 0.0


def test_integers_of_any_length_are_taken_and_returned(verifier: CodeVerifier):
    big = "1" + "0" * 6000
    gold = (
        f'{{"style": "function", "entry_point": "double", "cases": [{{"input": [{big}], "output": {"2" + big[1:]}}}]}}'
    )
    verifier.check_gold(gold)
    assert reward(verifier, "def double(n):\n    print(n)\n    return 2 * n", gold) == 1.0
    assert reward(verifier, "def double(n): return 2 * n + 1", gold) == 0.0


# --- asserts: what a right program may do


@pytest.mark.parametrize("number", range(len(RIGHT)))
def test_right_programs_pass_asserts(verifier: CodeVerifier, number: int):
    check, code = RIGHT[number].strip().split("\n---\n")
    assert reward(verifier, code, asserts(check)) == 1.0
    broken = code.replace("return", "return 77,", 1) if "return" in code else "def f(*args): return 77"
    assert reward(verifier, broken, asserts(check)) == 0.0


def test_helpers_of_the_tests_are_theirs_and_the_entry_point_is_the_programs(verifier: CodeVerifier):
    tests = asserts(
        "def check(candidate):\n    assert abs(poly([1, 2], candidate([1, 2]))) < 1e-4\ncheck(root)",
        prelude="def poly(xs, x): return sum(c * x**k for k, c in enumerate(xs))\ndef root(xs):\n    '''To do.'''\n",
    )
    assert tests.entry_points() == ("root",)
    assert reward(verifier, "def root(xs): return -xs[0] / xs[1]", tests) == 1.0
    assert reward(verifier, "def poly(xs, x): return 0\ndef root(xs): return 5", tests) == 0.0
    named = asserts("assert root([1, 2]) == -0.5", entry_point="root", prelude=tests.prelude)
    assert reward(verifier, "def root(xs): return -xs[0] / xs[1]", named) == 1.0
    assert reward(verifier, "pass", named) == 0.0


def test_the_program_is_called_while_the_example_after_it_is_not_taken(verifier: CodeVerifier):
    response = "```python\ndef add(a, b):\n    return a + b\n```\nFor example\n```python\nprint(add(1, 2))\n```"
    for tests in (asserts("assert add(1, 2) == 3"), CodeTests("function", (Case([1, 2], 3),), entry_point="add")):
        assert verifier.verify(response, tests.to_json(), StopReason.STOP).reward == 1.0


# --- what is not the program's fault


@pytest.mark.parametrize(
    "check",
    [
        "import no_such_package\nassert f(1) == 1",
        "assert f(open) == 1",  # cannot be sent
        "assert f(1) == 1\nimport no_such_package",
    ],
)
def test_tests_that_cannot_be_run_give_no_reward(verifier: CodeVerifier, check: str):
    before = sum(verifier.counts.values())
    assert reward(verifier, "def f(n): return 1", asserts(check)) is None
    assert sum(verifier.counts.values()) == before + 1


@pytest.mark.parametrize("style", ["stdin", "function", "asserts"])
def test_a_broken_prelude_gives_no_reward(verifier: CodeVerifier, style: str):
    more: dict[str, Any] = {
        "stdin": {"cases": (Case("", "1"),)},
        "function": {"cases": (Case([1], 1),), "entry_point": "f"},
        "asserts": {"check": "assert f(1) == 1"},
    }[style]
    program = "print(1)" if style == "stdin" else "def f(n): return 1"
    for prelude, expected in (("print('talks')", 1.0), ("import no_such_package", None)):
        assert reward(verifier, program, CodeTests(style, prelude=prelude, **more)) == expected  # type: ignore[arg-type]


@pytest.mark.parametrize("status", [RunStatus.STARVED, RunStatus.KILLED, RunStatus.FAILED])
def test_the_machines_doing_gives_no_reward(verifier: CodeVerifier, monkeypatch: pytest.MonkeyPatch, status: RunStatus):
    monkeypatch.setattr(Sandbox, "run", lambda *_, **__: RunResult(status, None, b"4", b""))
    assert reward(verifier, "print(4)", CodeTests("stdin", (Case("", "4"),))) is None


def test_the_unexpected_is_counted_and_ends_nothing(verifier: CodeVerifier, monkeypatch: pytest.MonkeyPatch):
    def fails(*_: Any, **__: Any) -> RunResult:
        raise RecursionError("1,200 levels")

    monkeypatch.setattr(Sandbox, "run", fails)
    before = verifier.counts["RecursionError"]
    assert reward(verifier, "print(4)", CodeTests("stdin", (Case("", "4"),))) is None
    assert verifier.counts["RecursionError"] == before + 1


def test_a_file_that_is_nowhere_left(verifier: CodeVerifier):
    assert (
        reward(
            verifier,
            "import os\nfor _ in range(1200): os.mkdir('d'); os.chdir('d')\nprint(4)",
            CodeTests("stdin", (Case("", "4"),)),
        )
        == 1.0
    )


@pytest.mark.parametrize(
    ("tests", "problem"),
    [
        (asserts("assert f(1) =="), "its check is no Python"),
        (asserts("assert f(1)", prelude="def"), "its prelude is no Python"),
    ],
)
def test_golds_no_program_could_pass_are_refused(verifier: CodeVerifier, tests: CodeTests, problem: str):
    with pytest.raises(DataError, match=problem):
        verifier.check_gold(tests.to_json())


def test_an_output_too_large_to_compare_is_refused(verifier: CodeVerifier, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("bcpg_cluster.stages.verify.code.code_tests.MAX_OUTPUT_BYTES", 10)
    with pytest.raises(DataError, match="has 11 bytes, more than 10"):
        verifier.check_gold(CodeTests("stdin", (Case("", "x" * 11),)).to_json())


def test_as_many_at_once_as_there_are_processors():
    verifier = CodeVerifier(allow_unsandboxed=True)
    assert verifier._places._initial_value == len(os.sched_getaffinity(0))  # type: ignore[attr-defined]
    assert CodeVerifier(num_parallel=7, allow_unsandboxed=True)._places._initial_value == 7  # type: ignore[attr-defined]
