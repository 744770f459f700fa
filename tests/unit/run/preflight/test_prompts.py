"""Gold answers that no response could match are refused before a run, with the place where they stand."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bcpg_cluster.config.run import Config
from bcpg_cluster.errors import DataError
from bcpg_cluster.prompts.bad_rows import BadRowsError
from bcpg_cluster.records import StopReason
from bcpg_cluster.run.preflight.notes import skipped_notes
from bcpg_cluster.run.preflight.prompt_digests import digest_sets
from bcpg_cluster.run.preflight.prompts import check_answers, read_all_prompts
from bcpg_cluster.stages.verify.math_answer import MathVerifier

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
        read_all_prompts(config, ask_math_verify=True)
    assert error.value.problem.startswith("3 of 6 rows cannot be used:")
    for place in (
        f"{train}, line 3: (prompt_id 'train1')",
        f"{train}, line 7: (prompt_id 'train3')",
        f"{test}, line 3",
    ):
        assert place in error.value.problem
    assert error.value.rule and error.value.remedy


def test_numbers_in_json_are_golds_that_a_right_answer_matches(make_config: MakeConfig, tmp_path: Path):
    """0.00001 and 10000000000000000.0 become the texts 1e-05 and 1e+16."""
    train, test = tmp_path / "train.jsonl", _prompts(tmp_path / "test.jsonl", "1")
    train.write_text(
        '{"prompt_id":"a","question":"One hundred-thousandth as a decimal?","answer":0.00001}\n'
        '{"prompt_id":"b","question":"Ten to the 16?","answer":10000000000000000.0}\n'
    )
    found = read_all_prompts(_config(make_config, str(train), test, kind="math"), ask_math_verify=True).train
    verifier = MathVerifier(time_limit_s=60.0)
    try:
        for prompt, right, wrong in zip(found, ("0.00001", "10^{16}"), ("0.0001", "10^{15}"), strict=True):
            for said, reward in ((right, 1.0), (wrong, 0.0)):
                graded = verifier.verify(f"It is $\\boxed{{{said}}}$.", prompt.answer, StopReason.STOP)
                assert graded.reward == reward, (prompt.answer, said)
    finally:
        verifier.close()


def test_verifiers_that_are_quick_are_asked_whenever_prompts_are_read(make_config: MakeConfig, tmp_path: Path):
    train = _prompts(tmp_path / "train.jsonl", "12", "twelve")
    config = _config(make_config, train, _prompts(tmp_path / "test.jsonl", "1"), kind="exact", numeric=True)
    with pytest.raises(DataError, match=r"line 3: \(prompt_id 'train1'\) .* is not a number"):
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
    with pytest.raises(DataError, match=r"table.jsonl, line 2: \(prompt_id 'table-1'\)"):
        read_all_prompts(config)


def test_bad_rows_of_all_files_are_one_error_and_may_be_left_out(make_config: MakeConfig, tmp_path: Path):
    train = _prompts(tmp_path / "train.jsonl", "1", "twelve", "3")
    with Path(train).open("a") as file:
        file.write("{torn\n")
    test = _prompts(tmp_path / "test.jsonl", "1", "", "2")
    config = _config(make_config, train, test, kind="exact", numeric=True)
    with pytest.raises(BadRowsError) as caught:
        read_all_prompts(config)
    assert caught.value.problem.startswith("3 of 7 rows cannot be used:")
    assert [(Path(row.source).name, row.number, row.fault) for row in caught.value.rows] == [
        ("train.jsonl", 3, "a gold answer that cannot be used"),
        ("train.jsonl", 6, "not JSON"),
        ("test.jsonl", 3, "answer is empty"),
    ]
    assert "--skip-bad" in caught.value.remedy
    sets = read_all_prompts(config.model_copy(update={"prompts": config.prompts.model_copy(update={"skip_bad": True})}))
    assert [p.prompt_id for p in sets.train] == ["train0", "train2"]
    assert [p.prompt_id for p in sets.test] == ["test0", "test2"]
    assert skipped_notes(sets)[0] == (
        "prompts.train: 2 rows are left out (1 x a gold answer that cannot be used, 1 x not JSON)"
    )
    found = digest_sets(config, sets)
    assert found["prompts.train"].skipped == {"a gold answer that cannot be used": 1, "not JSON": 1}
    assert found["prompts.test"].skipped == {"answer is empty": 1}
    assert config.identity == make_config(
        prompts={"train": train, "test": test, "per_round": 1, "skip_bad": True}, verify={"kind": "exact", "numeric": True}
    ).identity  # fmt: skip


def test_nothing_left_is_an_error(make_config: MakeConfig, tmp_path: Path):
    train = _prompts(tmp_path / "train.jsonl", "", "")
    prompts = {"train": train, "test": _prompts(tmp_path / "test.jsonl", "1"), "per_round": 1, "skip_bad": True}
    with pytest.raises(BadRowsError, match="2 of 2 rows cannot be used"):
        read_all_prompts(make_config(prompts=prompts))
