"""Every bad input of tests/data/bad_inputs: said in plain words, with rule and remedy, before anything is made.

A line names the arguments of a command and what its error says. ``@CONFIG@`` is the config of fakes, ``@YAML@`` the line's
own text as a file, ``@TMP@`` the working directory, which holds ``own.py`` and ``labelled.jsonl``.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.unit.test_bad_inputs import NOT_OURS, without_values

CASES = [
    json.loads(line)
    for line in (Path(__file__).parents[2] / "data" / "bad_inputs" / "commands.jsonl").read_text().splitlines()
]
OWN = """
NUMBER = 3
def reward(response, gold): return 1.0
def of_three(a, b, c): return 1.0
def of_none(): return 1.0
class Judge: pass
class Empty: pass
"""
LABELLED = {"id": "s", "problem": "1 +1", "steps": ["1+1=2\n"], "label": -1, "final_answer_correct": True}
ROLLOUT = {"prompt": "1 +1", "response": "answer 2", "answer": "2"}


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.py").write_text(OWN)
    (tmp_path / "broken.py").write_text("def f(:\n")
    (tmp_path / "labelled.jsonl").write_text(json.dumps(LABELLED) + "\n")
    (tmp_path / "rollouts.jsonl").write_text(json.dumps(ROLLOUT) + "\n")
    return tmp_path


@pytest.mark.parametrize("case", CASES, ids=[case["id"] for case in CASES])
def test_it_is_said(case: dict[str, Any], place: Path, bcpg: Callable[..., Any], config_file: Path):
    (place / "case.yaml").write_text(case.get("yaml", ""))
    before = sorted(path for path in place.rglob("*") if path.name != "__pycache__")
    names = {"@CONFIG@": str(config_file), "@YAML@": str(place / "case.yaml"), "@TMP@": str(place)}
    arguments = case["arguments"]
    for name, value in names.items():
        arguments = [argument.replace(name, value) for argument in arguments]
    ended = bcpg(*arguments)
    assert ended.code == case.get("code", 2), ended.err
    for words in case["says"]:
        assert words in ended.err, ended.err
    assert "  rule:   " in ended.err and "  remedy: " in ended.err
    assert not NOT_OURS.search(without_values(ended.err)), ended.err
    after = sorted(path for path in place.rglob("*") if path.suffix != ".pyc" and path.name != "__pycache__")
    assert after == before, "something was made"


def test_the_cases_have_names_of_their_own():
    assert len({case["id"] for case in CASES}) == len(CASES) > 80
