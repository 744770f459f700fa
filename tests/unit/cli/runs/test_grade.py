"""``bcpg-cluster grade``, driven as a user does it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Bcpg = Callable[..., Any]
CASES = Path(__file__).parents[3] / "data" / "rewards"


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    def lines(*rows: object) -> Path:
        path = tmp_path / "samples.jsonl"
        path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
        return path

    return lines


def test_a_line_a_sample_with_what_was_read_and_why(bcpg: Bcpg, write: Callable[..., Path]):
    path = write(
        {"response": "\\boxed{12}. No: \\boxed{13}", "gold": 13, "expected": 1},
        "",
        {"response": "it is", "gold": "13", "stop_reason": "length", "expected": 0},
        {"response": "gone", "gold": "13", "stop_reason": "aborted", "expected": None},
    )
    ended = bcpg("grade", path)
    assert ended.code == 0, ended.err
    assert ended.out.splitlines() == [
        "line 1: reward 1 (verified): read 13, gold 13; equal numbers",
        "line 3: reward 0 (truncated): read nothing, gold 13; cut off before an answer in a box",
        "line 4: reward none (engine_lost): read nothing, gold 13; the generation was aborted",
        "3 samples: 1 right, 1 wrong, 1 without a reward (verified 1, truncated 1, engine_lost 1)",
        "0 of 3 expected rewards differ",
    ]


def test_the_cases_of_this_repository(bcpg: Bcpg):
    ended = bcpg("grade", CASES / "corrections.jsonl")
    assert ended.code == 0 and "0 of 44 expected rewards differ" in ended.out


def test_a_reward_that_is_not_the_expected_one_is_exit_code_1(bcpg: Bcpg, write: Callable[..., Path]):
    samples = [{"response": f"\\boxed{{{said}}}", "gold": "13", "expected": 1} for said in (12, 13, 14)]
    ended = bcpg("grade", write(*samples))
    assert ended.code == 1
    assert "EXPECTED 1" in ended.out and "2 of 3 expected rewards differ: lines 1, 3" in ended.out
    ended = bcpg("grade", write(*samples), "--json")
    found = json.loads(ended.out)
    assert (ended.code, found["differing_lines"], found["kind"]) == (1, [1, 3], "math")
    assert found["samples"][1] == {
        "line": 2, "reward": 1.0, "status": "verified", "response_read_as": "13", "gold_read_as": "13",
        "why": "equal numbers", "expected": 1.0, "differs": False,
    }  # fmt: skip


def test_all_bad_lines_are_counted_and_named(bcpg: Bcpg, write: Callable[..., Path]):
    good = {"response": "x", "gold": "1"}
    ended = bcpg(
        "grade",
        write(
            good,
            "{",
            "[]",
            {"gold": "1"},
            good | {"reward": 1},
            good | {"stop_reason": "end"},
            good | {"expected": 0.5},
            good | {"expected": True},
            good | {"gold": None},
            good | {"response": 5},
            '{"response": "x", "gold": NaN}',
        ),
    )
    assert ended.code == 2
    assert "10 of 11 lines cannot be used" in ended.err
    for words in (
        "line 2: Expecting", "line 3: a list", "line 4: response is missing", "line 5: unknown keys reward",
        "line 6: stop_reason is 'end'", "line 7: expected is 0.5", "line 8: expected is True", "line 9: the gold answer is None",
        "line 10: response is 5", "line 11: the gold answer is nan", "rule:", "remedy:",
    ):  # fmt: skip
        assert words in ended.err


def test_files_that_are_not_there_or_empty(bcpg: Bcpg, tmp_path: Path, write: Callable[..., Path]):
    assert "cannot be read" in bcpg("grade", tmp_path / "no.jsonl").err
    assert "is empty" in bcpg("grade", write()).err


def test_golds_that_no_answer_can_match_are_listed(bcpg: Bcpg, write: Callable[..., Path]):
    path = write(
        {"gold": "9 (apples)"},
        {"gold": "\\frac{"},
        {"gold": 1e-05},
        {"prompt_id": "a", "question": "?", "answer": "??"},
    )
    ended = bcpg("grade", "--gold", path)
    assert ended.code == 1
    assert [line.split(":")[0] for line in ended.out.splitlines()[:-1]] == ["line 2", "line 4"]
    assert ended.out.splitlines()[-1] == "2 of 4 gold answers are right as their own answer"
    bad = json.loads(bcpg("grade", "--gold", path, "--json").out)
    assert (bad["num_golds"], [one["line"] for one in bad["bad"]]) == (4, [2, 4])


def test_columns_with_other_names(bcpg: Bcpg, write: Callable[..., Path]):
    path = write({"completion": "\\boxed{2}", "answer": "2", "model": "m"})
    assert "unknown keys answer, completion, model" in bcpg("grade", path).err
    ended = bcpg("grade", path, "--column", "response=completion", "--column", "gold=answer")
    assert ended.code == 0 and "reward 1" in ended.out
    assert "names no key" in bcpg("grade", path, "--column", "answer=gold").err


def test_every_kind_of_verifier(
    bcpg: Bcpg, write: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    exact = bcpg("grade", write({"response": "answer 18", "gold": "18.0", "expected": 1}), "--kind", "exact")
    assert exact.code == 0, exact.err
    (tmp_path / "marks.py").write_text("def last_word(answer, gold): return float(answer.split()[-1] == gold)\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    function = bcpg(
        "grade", write({"response": "so 18", "gold": "18", "expected": 1}), "--kind", "function", "--set",
        "verify.function=marks:last_word",
    )  # fmt: skip
    assert function.code == 0, function.err
    tests = {"style": "function", "entry_point": "double", "cases": [{"input": [2], "output": 4}]}
    response = "```python\ndef double(n):\n    return 2 * n\n```"
    code = bcpg(
        "grade", write({"response": response, "gold": tests, "expected": 1}), "--kind", "code", "--set",
        "verify.allow_unsandboxed=true",
    )  # fmt: skip
    assert code.code == 0, code.err
    assert bcpg("grade", write({"response": "x", "gold": "1"}), "--kind", "maths").code == 2


def test_a_config_says_the_kind(bcpg: Bcpg, config_file: Path, write: Callable[..., Path]):
    path = write({"response": "answer 18", "gold": "18", "expected": 1})
    assert bcpg("grade", path, "--config", config_file).code == 0
    assert bcpg("grade", path, "--config", config_file, "--set", "verify.answer_pattern=result (\\S+)").code == 1
