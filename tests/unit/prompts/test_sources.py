"""prompt_sources.py: tables in every format give the same prompts; mapped columns that are not there are said."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet

from bcpg_cluster.errors import DataError
from bcpg_cluster.prompts.columns import Columns, prompts_from_rows
from bcpg_cluster.prompts.sources import read_mapped_prompts, read_rows
from bcpg_cluster.records import Prompt

ROWS: list[dict[str, Any]] = [
    {"id": 3, "problem": "1+1?", "extra": {"gold": "2"}},
    {"id": 4, "problem": "2+2?\u2028", "extra": {"gold": "4"}},
]
COLUMNS = Columns(question="problem", answer="extra.gold", prompt_id="id")
PROMPTS = [Prompt("3", "1+1?", "2"), Prompt("4", "2+2?\u2028", "4")]


def _jsonl(folder: Path, rows: list[Any]) -> Path:
    file = folder / "t.jsonl"
    file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return file


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)


def test_every_format_gives_the_same_prompts(tmp_path: Path):
    import datasets

    jsonl = _jsonl(tmp_path, ROWS)
    parquet.write_table(pa.Table.from_pylist(ROWS), tmp_path / "t.parquet")
    datasets.Dataset.from_list(ROWS).save_to_disk(str(tmp_path / "saved"))
    datasets.DatasetDict({"test": datasets.Dataset.from_list(ROWS)}).save_to_disk(str(tmp_path / "splits"))
    folder = tmp_path / "files"
    folder.mkdir()
    (folder / "train.jsonl").write_text(json.dumps(ROWS[0] | {"id": 9}) + "\n")
    (folder / "test.jsonl").write_bytes(jsonl.read_bytes())
    for source in (jsonl, tmp_path / "t.parquet", tmp_path / "saved", tmp_path / "splits"):
        assert read_mapped_prompts(str(source), COLUMNS).checked() == PROMPTS
        assert read_mapped_prompts(str(source), COLUMNS, limit=1).checked() == PROMPTS[:1]
    assert read_mapped_prompts(str(folder), COLUMNS, split="test").checked() == PROMPTS
    with pytest.raises(DataError, match=r"no split None; known: train, test"):
        read_mapped_prompts(str(folder), COLUMNS)
    rows = read_rows(str(folder), data_files=("test.jsonl", "train.jsonl"))
    assert [row["id"] for row in rows] == [3, 4, 9]


def test_without_an_id_column_rows_are_numbered():
    rows = [{"question": "q", "answer": 1}, {"question": "r", "answer": 0.5}]
    assert prompts_from_rows(rows, Columns(), "some/name.jsonl") == [
        Prompt("name-0", "q", "1"),
        Prompt("name-1", "r", "0.5"),
    ]


def test_a_column_whose_name_has_a_dot_comes_first():
    rows = [{"question": "q", "a.b": "flat", "a": {"b": "deep"}}]
    assert prompts_from_rows(rows, Columns(answer="a.b"), "x")[0].answer == "flat"


@pytest.mark.parametrize(
    ("columns", "row", "problem"),
    [
        (Columns(), {"problem": "q", "answer": "1"}, "set: no column 'question'; known: problem, answer"),
        (Columns(answer="a.c"), {"question": "q", "a": {"b": 1}}, "no column 'a.c'"),
        (Columns(answer="a.b.c"), {"question": "q", "a": {"b": 1}}, "no column 'a.b.c'"),
        (Columns(), {"question": "q", "answer": ""}, "row 0: answer is ''"),
        (Columns(), {"question": "q", "answer": None}, "row 0: answer is null"),
        (Columns(), {"question": " ", "answer": "1"}, "row 0: question is ' '"),
        (Columns(), {"question": "q", "answer": ["1"]}, "row 0: answer is \\['1'\\]"),
    ],
)
def test_rows_that_are_no_prompts(columns: Columns, row: dict[str, Any], problem: str):
    with pytest.raises(DataError, match=problem) as caught:
        prompts_from_rows([row], columns, "set")
    assert caught.value.rule and caught.value.remedy


def test_ids_that_repeat_and_tables_without_rows(tmp_path: Path):
    with pytest.raises(DataError, match="row 1: id '3' was used in row 0"):
        prompts_from_rows([ROWS[0], ROWS[0]], COLUMNS, "set")
    with pytest.raises(DataError, match="has no rows"):
        read_mapped_prompts(str(_jsonl(tmp_path, [])), COLUMNS)


def test_sources_that_cannot_be_read(tmp_path: Path):
    (tmp_path / "bad.parquet").write_text("no")
    (tmp_path / "bad.jsonl").write_text('{"a": 1}\n{"a"')
    (tmp_path / "list.jsonl").write_text("[1]\n")
    (tmp_path / "binary.jsonl").write_bytes(b"\xfa\xfb")
    (tmp_path / "empty").mkdir()
    for name, problem in [
        ("none.jsonl", "does not exist"),
        ("none", "does not exist"),
        ("bad.parquet", "cannot be read"),
        ("bad.jsonl", "line 2 cannot be read: not JSON"),
        ("list.jsonl", "line 1 cannot be read: a list"),
        ("binary.jsonl", "not UTF-8"),
        ("empty", "cannot be read"),
    ]:
        with pytest.raises(DataError, match=problem):
            list(read_rows(str(tmp_path / name)))


def test_a_hub_that_cannot_be_reached(monkeypatch: pytest.MonkeyPatch):
    """It is asked once; the loader then looks into its cache alone, where it would try again for half a minute."""
    import datasets
    from huggingface_hub import HfApi, constants

    asked: list[str] = []

    def no_hub(_: object, name: str, **__: object) -> None:
        asked.append(name)
        raise ConnectionError("no route")

    monkeypatch.setattr(HfApi, "dataset_info", no_hub)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    with pytest.raises(DataError, match=r"the hub does not answer \(ConnectionError: no route\)") as caught:
        read_rows("nobody/gsm8k")
    assert "downloaded" in caught.value.remedy
    assert asked == ["nobody/gsm8k"]
    assert (constants.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE) == (False, True)  # as before: see the fixture


def test_names_that_only_a_path_can_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Nobody is asked for them; what is there under a similar name is said."""
    from huggingface_hub import HfApi

    def never(*_: object, **__: object) -> None:
        raise AssertionError("the hub was asked")

    monkeypatch.setattr(HfApi, "dataset_info", never)
    monkeypatch.chdir(tmp_path)
    _jsonl(tmp_path, ROWS)
    for name, remedy in [
        ("./t", "did you mean t.jsonl?"),
        (str(tmp_path / "t"), f"did you mean {tmp_path / 't.jsonl'}?"),
        ("tt.jsonl", "did you mean t.jsonl?"),
        ("data/of/mine", "the directory data/of does not exist either"),
        ("my problems", "without a network"),
        ("../x", "correct the name"),
    ]:
        with pytest.raises(DataError, match="does not exist") as caught:
            read_rows(name)
        assert remedy in caught.value.remedy, name


@pytest.mark.parametrize("value", [float("nan"), float("inf"), True, None, "", [1]])
def test_gaps_are_no_answers(value: object) -> None:
    """pandas and JSON write a gap as NaN; it must not become the gold answer 'nan'."""
    with pytest.raises(DataError, match="answer is"):
        prompts_from_rows([{"question": "1+1", "answer": value}], Columns(), "t")
