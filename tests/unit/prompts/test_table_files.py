"""Files as people have them give the same prompts; what cannot be read is named with its place, all of it."""

from __future__ import annotations

import gzip
import json
import pickle
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet

from bcpg_cluster.errors import DataError
from bcpg_cluster.prompts.bad_rows import BadRow, BadRowsError, count_faults
from bcpg_cluster.prompts.columns import Columns, ReadPrompts
from bcpg_cluster.prompts.files import read_prompt_file
from bcpg_cluster.prompts.sources import read_mapped_prompts
from bcpg_cluster.prompts.tasks.registry import read_prompt_source
from bcpg_cluster.records import Prompt

ROWS = [
    {"id": "a", "problem": "What is 1+1?", "gold": "2"},
    {"id": "b", "problem": 'One, "two"\nthree?\u2028', "gold": "3"},
    {"id": "c", "problem": "Was ist ½?", "gold": "0.5"},
]
COLUMNS = Columns("problem", "gold", "id")
PROMPTS = [Prompt(row["id"], row["problem"], row["gold"]) for row in ROWS]
LINES = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS)
CSV = 'id,problem,gold\na,What is 1+1?,2\nb,"One, ""two""\nthree?\u2028",3\nc,Was ist ½?,0.5\n'
TSV = 'id\tproblem\tgold\na\tWhat is 1+1?\t2\nb\t"One, ""two""\nthree?\u2028"\t3\nc\tWas ist ½?\t0.5\n'
MARK = b"\xef\xbb\xbf"
FILES: dict[str, bytes] = {
    "lines.jsonl": LINES.encode(),
    "lines.ndjson": LINES.encode(),
    "lines.json": LINES.encode(),
    "array.json": json.dumps(ROWS, indent=2).encode(),
    "array-on-one-line.json": json.dumps(ROWS).encode(),
    "array.jsonl": json.dumps(ROWS).encode(),
    "mark.jsonl": MARK + LINES.encode(),
    "mark-array.json": MARK + json.dumps(ROWS).encode(),
    "crlf.jsonl": LINES.replace("\n", "\r\n").encode(),
    "no-last-end.jsonl": LINES.rstrip("\n").encode(),
    "empty-lines.jsonl": ("\n \n" + LINES.replace("\n", "\n\n")).encode(),
    "t.csv": CSV.encode(),
    "mark.csv": MARK + CSV.encode(),
    "empty-lines.csv": ("\n" + CSV + "\n\n").encode(),
    "semicolons.csv": CSV.replace("id,problem,gold", "id;problem;gold").replace("a,What", "a;What").replace("?,2", "?;2")
    .replace('b,"', 'b;"').replace('",3', '";3').replace("c,Was", "c;Was").replace("½?,", "½?;").encode(),
    "t.tsv": TSV.encode(),
    "tabs.csv": TSV.encode(),
    "CAPITALS.CSV": CSV.encode(),
    "t.jsonl.gz": gzip.compress(LINES.encode()),
    "t.csv.gz": gzip.compress(MARK + CSV.encode()),
    "t.json.gz": gzip.compress(json.dumps(ROWS).encode()),
}  # fmt: skip


@pytest.mark.parametrize("name", FILES)
def test_every_format_gives_the_same_prompts(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(FILES[name])
    assert read_mapped_prompts(str(tmp_path / name), COLUMNS).checked() == PROMPTS


def test_crlf_in_a_csv_file_ends_rows_and_stays_inside_quotes_as_one_line_end(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes(CSV.replace("\n", "\r\n").encode())
    assert read_mapped_prompts(str(tmp_path / "t.csv"), COLUMNS).checked() == PROMPTS


def test_parquet_and_its_numbers(tmp_path: Path) -> None:
    rows = [{"id": 7, "problem": "1+1?", "gold": 2}, {"id": 8, "problem": "half?", "gold": 5}]
    parquet.write_table(pa.Table.from_pylist(rows), tmp_path / "t.parquet")
    assert read_mapped_prompts(str(tmp_path / "t.parquet"), COLUMNS).checked() == [
        Prompt("7", "1+1?", "2"),
        Prompt("8", "half?", "5"),
    ]


# --- chats: the shapes of verl and TRL


VERL = {
    "data_source": "math", "prompt": [{"role": "user", "content": "What is 1+1?"}], "ability": "math",
    "reward_model": {"style": "rule", "ground_truth": "2"}, "extra_info": {"index": 1, "split": "train"},
}  # fmt: skip
VERL_COLUMNS = Columns("prompt", "reward_model.ground_truth")
TRL = {
    "prompt": [{"role": "user", "content": [{"type": "text", "text": "1"}, {"type": "text", "text": "+1?"}]}],
    "solution": 2,
}
SYSTEM = {"prompt": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "1+1?"}], "answer": "2"}


def verl_table(path: Path, *, rows: int = 1) -> Path:
    made = [
        VERL
        | {"prompt": [{"role": "user", "content": f"What is {n}+{n}?"}]}
        | {"reward_model": {"style": "rule", "ground_truth": str(2 * n)}}
        for n in range(1, rows + 1)
    ]
    parquet.write_table(pa.Table.from_pylist(made), path)
    return path


def test_verls_table(tmp_path: Path) -> None:
    """Five rows as verl's preprocessing writes them: 1+1 to 5+5."""
    found = read_mapped_prompts(str(verl_table(tmp_path / "chat_messages.parquet", rows=5)), VERL_COLUMNS)
    assert [(prompt.question, prompt.answer) for prompt in found.checked()] == [
        (f"What is {n}+{n}?", str(2 * n)) for n in range(1, 6)
    ]
    assert found.prompts[0].prompt_id == "chat_messages-0"


def test_a_mapping_that_is_missing_is_suggested(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        read_prompt_source(str(verl_table(tmp_path / "t.parquet")))
    assert "no column 'question'; known: data_source, prompt, ability, reward_model.style" in caught.value.problem
    assert "{question: prompt}" in caught.value.remedy


def chat(path: Path, *rows: dict[str, Any]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_trls_chats_and_lists_by_their_places(tmp_path: Path) -> None:
    source = chat(tmp_path / "t.jsonl", TRL)
    assert read_mapped_prompts(source, Columns("prompt", "solution")).checked() == [Prompt("t-0", "1+1?", "2")]
    source = chat(tmp_path / "s.jsonl", SYSTEM)
    assert read_mapped_prompts(source, Columns("prompt.1.content", "answer")).checked()[0].question == "1+1?"


@pytest.mark.parametrize(
    ("prompt", "problem", "remedy"),
    [
        (SYSTEM["prompt"], "'prompt' is a chat of system, user", "prompt.1.content"),
        (
            [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}],
            "user, assistant",
            "prompt.0.content",
        ),
        ([{"role": "user", "content": ""}], "prompt is ''", "fill the value in"),
        ([{"role": "user", "content": [{"type": "image"}]}], "prompt is [{'type': 'image'}]", "map another column"),
        ([], "prompt is []", "map another column"),
    ],
)
def test_chats_that_are_no_prompt(tmp_path: Path, prompt: Any, problem: str, remedy: str) -> None:
    source = chat(tmp_path / "t.jsonl", {"prompt": prompt, "answer": "2"}, {"prompt": "1+2?", "answer": 3})
    (bad,) = read_mapped_prompts(source, Columns("prompt", "answer")).bad
    assert (bad.number, bad.unit) == (1, "line")
    assert problem in bad.problem
    assert remedy in bad.remedy


# --- columns that are not there


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("t.csv", "question,answer\nq,1\n"),
        ("t.jsonl", '{"question": "q", "answer": "1"}\n{"question": "r", "answer": "1"}\n'),
        ("t.json", '[{"question": "q", "answer": "1"}]'),
    ],
)
def test_a_typo_names_the_columns_and_the_nearest(tmp_path: Path, name: str, content: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(DataError) as caught:
        read_mapped_prompts(str(tmp_path / name), Columns("question", "anwser"))
    assert caught.value.problem == f"{tmp_path / name}: no column 'anwser'; known: question, answer"
    assert "did you mean answer? set prompts.columns, e.g. {answer: answer}" in caught.value.remedy


# --- all bad rows, with their places


def test_all_bad_lines_are_named(tmp_path: Path) -> None:
    good = '{"prompt_id": "%s", "question": "q%s", "answer": "1"}'
    lines = [
        good % ("a", 1),
        "{torn",
        '{"prompt_id": "s", "question": "A cut emoji \\ud83d.", "answer": "3"}',
        '{"prompt_id": "n", "question": "Missing?", "answer": NaN}',
        '{"prompt_id": "i", "question": "Endless?", "answer": -Infinity}',
        '{"prompt_id": "h", "question": "Huge?", "answer": 1e999}',
        "",
        '{"prompt_id": "e", "question": "Empty?", "answer": ""}',
        good % ("a", 2),
        '{"prompt_id": "x", "question": "What is 1+1?", "answer": "2"}',
        '{"prompt_id": "y", "question": "What is 1+1?", "answer": "77"}',
        '{"prompt_id": "z", "question": "\xff"}',
        "[1]",
        '{"prompt_id": "t", "question": "True?", "answer": true}',
        good % ("last", 3),
    ]
    file = tmp_path / "p.jsonl"
    file.write_bytes("\n".join(lines).encode("latin-1"))
    read = read_prompt_file(str(file))
    assert [(bad.number, bad.fault) for bad in read.bad] == [
        (2, "not JSON"),
        (3, "half a character"),
        (4, "NaN or Infinity"),
        (5, "NaN or Infinity"),
        (6, "answer is not finite"),
        (8, "answer is empty"),
        (9, "an id that repeats"),
        (10, "one question with two answers"),
        (11, "one question with two answers"),
        (12, "not UTF-8"),
        (13, "no object"),
        (14, "answer is a bool"),
    ]
    assert [prompt.prompt_id for prompt in read.prompts] == ["a", "last"]
    assert [*read.numbers] == [1, 15]
    assert read.num_rows == 14
    assert read.where(1) == f"{file}, line 15"
    with pytest.raises(BadRowsError) as caught:
        read.checked()
    for bad in read.bad:
        assert f"{file}, line {bad.number}: " in caught.value.problem
    assert "12 of 14 rows cannot be used" in caught.value.problem
    assert '"\\ud83d" at character 12' in caught.value.problem
    assert "the answer '77' differs from '2' in line 10" in caught.value.problem
    again = pickle.loads(pickle.dumps(caught.value))  # errors cross processes
    assert (again.rows, str(again)) == (caught.value.rows, str(caught.value))


def test_many_bad_rows_are_counted_with_all_their_places(tmp_path: Path) -> None:
    rows = [{"question": f"q{n}", "answer": "" if 10 <= n < 40 or n == 50 else "1"} for n in range(60)]
    parquet.write_table(pa.Table.from_pylist(rows), tmp_path / "t.parquet")
    with pytest.raises(BadRowsError) as caught:
        read_mapped_prompts(str(tmp_path / "t.parquet"), Columns()).checked()
    assert "31 of 60 rows cannot be used" in caught.value.problem
    assert "31 rows: answer is empty: rows 10-39, 50 (the first of them: answer is '')" in caught.value.problem
    assert count_faults(caught.value.rows) == {"answer is empty": 31}


def test_one_line_of_two_answers_or_of_one(tmp_path: Path) -> None:
    """The same question with the same answer may stand twice; a third answer is another contradiction."""
    source = chat(tmp_path / "t.jsonl", *({"question": "q", "answer": "1"} for _ in range(2)))
    assert len(read_mapped_prompts(source, Columns()).checked()) == 2
    source = chat(
        tmp_path / "t.jsonl", *({"question": "q", "answer": a} for a in "121"), {"question": "r", "answer": "1"}
    )
    read = read_mapped_prompts(source, Columns())
    assert [bad.number for bad in read.bad] == [1, 2]
    assert [prompt.prompt_id for prompt in read.prompts] == ["t-2", "t-3"]


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("t.csv", b"question,answer\nq,1,2\nr,1\ns\n", "3 fields, but the header names 2 columns"),
        ("t.csv", b"question,answer\nq\n", "1 field, but the header names 2 columns"),
    ],
)
def test_bad_csv_rows(tmp_path: Path, name: str, content: bytes, problem: str) -> None:
    (tmp_path / name).write_bytes(content)
    read = read_mapped_prompts(str(tmp_path / name), Columns())
    assert read.bad[0] == BadRow(
        str(tmp_path / name), "line", 2, "other number of fields", problem, read.bad[0].rule, read.bad[0].remedy
    )


def test_the_line_of_a_csv_row_is_where_it_begins(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text('\nquestion,answer\n"a\nb\nc",1\n\nq,\n')
    (bad,) = read_mapped_prompts(str(tmp_path / "t.csv"), Columns()).bad
    assert (bad.number, bad.problem) == (7, "answer is ''")


TORN_GZ = gzip.compress(b'{"question": "q"}\n' * 50, mtime=0)[:-9]


@pytest.mark.parametrize(
    ("name", "content", "problem", "remedy"),
    [
        ("t.jsonl", "\ufeff{}".encode("utf-16-le"), "it is UTF-16 text", "save the file as UTF-8"),
        ("t.csv", "question,answer\nWas ist ½?,1\n".encode("latin-1"), "line 2 is not UTF-8: b'\\xbd?,1'", "save the file"),
        ("t.csv", b'question,answer\n"open,1\n', "line 2: unexpected end of data", "close the quote"),
        ("t.csv", b"question,question\nq,1\n", "its header has 'question' twice", "correct the header"),
        ("t.csv", b"question,\nq,1\n", "its header is 'question', ''", "correct the header"),
        ("t.json", b'{\n "train": [],\n "test": []\n}', "it is one JSON object with 'train', 'test'", "the list of rows alone"),
        ("t.json", b'[{"question": 1},\n', "not JSON", "one JSON object a line"),
        ("t.json", b'[{"question": NaN}]', "not JSON: it holds NaN", "leave the entry out"),
        ("t.jsonl.gz", b"plain", "the archive is damaged", "copy or download it again"),
        ("t.jsonl.gz", TORN_GZ, "the archive is damaged", "copy or download it again"),
        ("t.parquet", b"PAR1 no", "Parquet", "write it again"),
        ("t.xlsx", b"PK", ".xlsx files are not read", "convert it"),
        ("t.zip", b"PK", ".zip files are not read", "convert it"),
        ("t.csv", b"", "has no rows", "another file"),
        ("t.csv", b"question,answer\n", "has no rows", "another file"),
        ("t.json", b"[]", "has no rows", "another file"),
    ],
)  # fmt: skip
def test_files_that_cannot_be_read_as_a_whole(
    tmp_path: Path, name: str, content: bytes, problem: str, remedy: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError) as caught:
        read_mapped_prompts(str(tmp_path / name), Columns())
    assert problem in caught.value.problem
    assert str(tmp_path / name) in caught.value.problem
    assert remedy in caught.value.remedy
    assert caught.value.rule


def test_limit_reads_no_further(tmp_path: Path) -> None:
    source = chat(tmp_path / "t.jsonl", {"question": "q", "answer": 1}, {"question": "", "answer": 1})
    found: ReadPrompts = read_mapped_prompts(source, Columns(), limit=1)
    assert (len(found.prompts), found.bad, found.num_rows) == (1, (), 1)


def test_small_numbers_stay_numbers(tmp_path: Path) -> None:
    """As JSON has them: 0.00001 and 10000000000000000.0; the verifiers read E notation."""
    (tmp_path / "t.jsonl").write_text(
        '{"prompt_id": "a", "question": "One hundred-thousandth?", "answer": 0.00001}\n'
        '{"prompt_id": "b", "question": "Ten to the 16?", "answer": 10000000000000000.0}\n'
    )
    assert [prompt.answer for prompt in read_prompt_file(str(tmp_path / "t.jsonl")).checked()] == ["1e-05", "1e+16"]
