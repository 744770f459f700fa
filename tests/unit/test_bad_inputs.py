"""A corpus of inputs that cannot work: every one is an error with its value, the rule and a remedy, and nothing else happens."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bcpg_cluster.config.load import change_config
from bcpg_cluster.config.run import Config
from bcpg_cluster.errors import UserError
from bcpg_cluster.exchange.rollout_file import RolloutFile
from bcpg_cluster.run.preflight.model_files import check_model_files
from bcpg_cluster.run.preflight.models import check_model_claims
from bcpg_cluster.run.preflight.prompts import read_all_prompts

FOLDER = Path(__file__).parents[1] / "data" / "bad_inputs"


def corpus(name: str) -> list[dict[str, Any]]:
    """The cases of one file."""
    return [json.loads(line) for line in (FOLDER / name).read_text(encoding="utf-8").splitlines()]


CONFIGS, PROMPTS, ROLLOUTS, MODELS = map(corpus, ("configs.jsonl", "prompts.jsonl", "rollouts.jsonl", "models.jsonl"))
NOT_OURS = re.compile(
    r"Traceback|Value error|Input should|Extra inputs|Field required|For further information|NoneType|\bNone\b|unable to parse"
    r"|valid (string|integer|number|boolean|dictionary)|\(char |recursion depth|sys\.set_int|<unicode string>|\['"
)
"""Words of pydantic, PyYAML, the JSON reader and Python."""
TEST = {"prompt_id": "held-out", "question": "a question of its own", "answer": "1"}


def check(error: UserError, case: dict[str, Any]) -> None:
    """All three parts are there and say what the case expects."""
    for said in case["says"]:
        assert said in error.problem, f"{said!r} is not in {error.problem!r}"
    assert case.get("remedy", "") in error.remedy
    assert error.problem.strip() and error.rule.strip() and error.remedy.strip()
    assert not NOT_OURS.search(without_values(str(error))), error


def without_values(text: str) -> str:
    """A message without what it quotes of the input."""
    return re.sub(r"""(?:got |is |: )(?:\{.*|\[.*|\(.*|'[^'\n]*'|"[^"\n]*")""", "", text)


def lay_down(folder: Path, case: dict[str, Any]) -> Path:
    """The case's file."""
    file = folder / case["file"]
    file.write_bytes(base64.b64decode(case["base64"]) if "base64" in case else case["text"].encode())
    return file


def test_the_corpus_is_large() -> None:
    assert len(CONFIGS) + len(PROMPTS) + len(ROLLOUTS) + len(MODELS) >= 200


@pytest.mark.parametrize("case", CONFIGS, ids=lambda case: case["set"][:40])
def test_configs(case: dict[str, Any], fakes_content: Callable[[], dict[str, Any]]) -> None:
    with pytest.raises(UserError) as caught:
        change_config(fakes_content(), [case["set"]], "case")
    check(caught.value, case)


@pytest.mark.parametrize("case", PROMPTS, ids=lambda case: case["case"])
def test_prompt_files(
    case: dict[str, Any], tmp_path: Path, make_config: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BCPG_CLUSTER_CACHE", str(tmp_path / "cache"))
    file = lay_down(tmp_path, case)
    test = tmp_path / "held-out.jsonl"
    columns = case.get("columns")
    ours = {"question": "question", "answer": "answer", "prompt_id": "prompt_id"}
    answer = '{"style": "stdin", "cases": []}' if case.get("verify", {}).get("kind") == "code" else "1"
    row: dict[str, Any] = {}
    for name, value in (TEST | {"answer": answer}).items():  # a good file under the same mapping
        *above, last = (columns or {}).get(name, ours[name]).split(".")
        inner = row
        for part in above:
            inner = inner.setdefault(part, {})
        inner[last] = value
    test.write_text(json.dumps(row) + "\n")
    section = {"train": str(file), "test": str(test), "per_round": 1} | ({"columns": columns} if columns else {})
    config = make_config(prompts=section, verify=case.get("verify", {"kind": "exact", "numeric": False}))
    with pytest.raises(UserError) as caught:
        read_all_prompts(config, ask_math_verify=True)
    check(caught.value, case)
    assert str(file) in caught.value.problem


@pytest.mark.parametrize("case", ROLLOUTS, ids=lambda case: case["case"])
def test_rollout_files(case: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        RolloutFile(lay_down(tmp_path, case), case.get("columns")).check()
    check(caught.value, case)


@pytest.mark.parametrize("case", MODELS, ids=lambda case: case["case"])
def test_model_directories(case: dict[str, Any], tmp_path: Path, make_config: Callable[..., Config]) -> None:
    (tmp_path / "config.json").write_text(json.dumps(case["config"]))
    for name, content in case["files"].items():
        (tmp_path / name).write_bytes(base64.b64decode(content))
    if case["purpose"] == "prm":
        judges = {"prm": {"kind": "prm", "model": str(tmp_path)}}
        with pytest.raises(UserError) as caught:
            check_model_claims(make_config(judges=judges))
    else:
        with pytest.raises(UserError) as caught:
            check_model_files("policy.model", tmp_path, "causal", needs_weights=True)
    check(caught.value, case)
    assert str(tmp_path) in caught.value.problem
