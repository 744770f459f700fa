"""Gold answers that no response could match are refused before a run, with the place where they stand."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bcpg_cluster.config.run import Config
from bcpg_cluster.errors import DataError
from bcpg_cluster.run.preflight.prompts import check_answers, check_golds, read_all_prompts

MakeConfig = Callable[..., Config]


def _prompts(path: Path, *answers: str) -> str:
    rows = [
        {"prompt_id": f"{path.stem}{i}", "question": f"{path.stem} {i}?", "answer": a} for i, a in enumerate(answers)
    ]
    path.write_text("\n\n".join(map(json.dumps, rows)) + "\n")  # an empty line between two prompts
    return str(path)


def _config(make_config: MakeConfig, train: str, test: str, **verify: Any) -> Config:
    return make_config(prompts={"train": train, "test": test, "per_round": 1}, verify=verify)


def test_each_bad_gold_is_named_with_file_and_line(make_config: MakeConfig, tmp_path: Path):
    train = _prompts(tmp_path / "train.jsonl", "1e-05", "\\frac{", "9 (apples)", "???")
    test = _prompts(tmp_path / "test.jsonl", "\\frac12", "$")
    config = _config(make_config, train, test, kind="math")
    with pytest.raises(DataError) as error:
        check_golds(config, read_all_prompts(config))
    assert error.value.problem.startswith("3 of 6 gold answers cannot be used:")
    for place in (f"{train}, line 3 (prompt_id 'train1')", f"{train}, line 7 (prompt_id 'train3')", f"{test}, line 3"):
        assert place in error.value.problem
    assert error.value.rule and error.value.remedy


def test_verifiers_that_are_quick_are_asked_whenever_prompts_are_read(make_config: MakeConfig, tmp_path: Path):
    train = _prompts(tmp_path / "train.jsonl", "12", "twelve")
    config = _config(make_config, train, _prompts(tmp_path / "test.jsonl", "1"), kind="exact", numeric=True)
    with pytest.raises(DataError, match=r"1 of 3 gold .*\n.*line 3 \(prompt_id 'train1'\): .* is not a number"):
        read_all_prompts(config)


def test_prompts_without_a_file_are_named_by_their_id(make_config: MakeConfig, tmp_path: Path):
    train = _prompts(tmp_path / "train.jsonl", "12")
    config = _config(make_config, train, _prompts(tmp_path / "test.jsonl", "1"), kind="exact", numeric=True)
    prompts = read_all_prompts(config).train
    check_answers(config, prompts)
    with pytest.raises(DataError, match="prompt_id 'train0': the gold answer 'twelve'"):
        check_answers(config, [type(prompts[0])("train0", "?", "twelve")])


def test_rows_of_a_table_are_named_by_their_number(make_config: MakeConfig, tmp_path: Path):
    path = tmp_path / "table.jsonl"
    path.write_text('{"problem": "a", "solution": "1"}\n{"problem": "b", "solution": "b"}\n')
    columns = {"question": "problem", "answer": "solution"}
    prompts = {"train": str(path), "test": str(path), "per_round": 1, "columns": columns}
    config = make_config(prompts=prompts, verify={"kind": "exact", "numeric": True})
    with pytest.raises(DataError):  # the same questions in both sets
        read_all_prompts(config)
    other = tmp_path / "other.jsonl"
    other.write_text('{"problem": "c", "solution": "1"}\n')
    config = make_config(prompts=prompts | {"test": str(other)}, verify={"kind": "exact", "numeric": True})
    with pytest.raises(DataError, match=r"table.jsonl, row 1 \(prompt_id 'table-1'\)"):
        read_all_prompts(config)
