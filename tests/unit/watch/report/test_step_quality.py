"""method/step_quality.py: ProcessBench's measures, by hand; and the files they are read from (labelled_steps.py)."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bcpg_cluster.errors import DataError
from bcpg_cluster.prompts.labelled_steps import read_labelled_file, read_subsets
from bcpg_cluster.prompts.step_truth import NO_ERROR, first_error, known_truth
from bcpg_cluster.watch.report.step_quality import FirstErrorScore, first_error_score, mean_f1


@pytest.mark.parametrize(
    ("labels", "first"),
    [
        ([1, 1, 1], -1), ([1, 0, 1], 1), ([0, 0], 0), ([], -1),
        ([1, None, 0], None),  # the unread step may have been the first
        ([1, 0, None], 1), ([None], None), ([1, 1, None], None),
    ],
)  # fmt: skip
def test_first_error(labels: list[int | None], first: int | None):
    assert first_error(labels) == first


def test_known_truth_stops_at_the_first_error():
    assert known_truth(-1, 3) == (1, 1, 1)
    assert known_truth(0, 3) == (0, None, None)
    assert known_truth(2, 3) == (1, 1, 0)
    for outside in (3, -2):
        with pytest.raises(ValueError, match="first wrong step of 3"):
            known_truth(outside, 3)


@given(st.integers(1, 8).flatmap(lambda n: st.tuples(st.integers(-1, n - 1), st.just(n))))
@settings(deadline=None)
def test_the_truth_read_back_is_the_label(case: tuple[int, int]):
    assert first_error(known_truth(*case)) == case[0]


def test_scores_by_hand():
    # with an error: 2 named exactly, 1 off by one, 1 unreadable; without: 2 of 3
    score = first_error_score([1, 0, 3, None, -1, -1, 2], [1, 0, 2, 4, -1, -1, -1])
    assert score == FirstErrorScore(
        acc_error=0.5, acc_correct=2 / 3, f1=pytest.approx(2 * 0.5 * (2 / 3) / (0.5 + 2 / 3)), num_error=4,
        num_correct=3, num_unreadable=1,
    )  # fmt: skip
    assert score.f1 == pytest.approx(4 / 7)


def test_where_there_is_nothing_to_divide_by():
    assert first_error_score([1, -1], [0, -1]).f1 == 0.0  # one of the two is 0
    assert first_error_score([-1, 0], [0, -1]).f1 == 0.0  # both are
    only_wrong = first_error_score([0], [0])
    assert (only_wrong.acc_error, only_wrong.acc_correct, only_wrong.f1) == (1.0, None, None)
    assert first_error_score([], []) == FirstErrorScore(None, None, None, 0, 0, 0)


def test_a_judge_that_never_answers_scores_nothing():
    score = first_error_score([None, None], [0, -1])
    assert (score.acc_error, score.acc_correct, score.f1, score.num_unreadable) == (0.0, 0.0, 0.0, 2)


def test_what_cannot_be_scored():
    with pytest.raises(ValueError, match="1 predictions for 2"):
        first_error_score([0], [0, 1])
    with pytest.raises(ValueError, match="index"):
        first_error_score([-2], [0])
    with pytest.raises(ValueError, match="0, 1 or None"):
        first_error([2])


def test_subsets_count_alike_whatever_their_size():
    large, small = first_error_score([0] * 9 + [-1], [0] * 9 + [-1]), first_error_score([1, -1], [0, -1])
    assert mean_f1([large, small]) == 0.5
    assert mean_f1([]) is None
    assert mean_f1([large, first_error_score([0], [0])]) is None


# --- files


def write(path: Path, content: object) -> str:
    path.write_text(json.dumps(content))
    return str(path)


FIRST = {"id": "a", "problem": "1 + 1?", "steps": ["1 + 1 = 2", "so 3"], "label": 1, "generator": "x"}


def test_processbench_as_an_array_and_as_lines(tmp_path: Path):
    rows = [FIRST, {"problem": "2?", "steps": ["2\u2028"], "label": NO_ERROR}]
    array = read_labelled_file(write(tmp_path / "set.json", rows)).solutions
    lines = tmp_path / "set.jsonl"
    lines.write_text("\n\n".join(json.dumps(row, ensure_ascii=False) for row in rows) + "\n")
    assert array == read_labelled_file(str(lines)).solutions
    assert [(s.solution_id, s.problem, s.steps, s.truth, s.first_wrong, s.gold) for s in array] == [
        ("a", "1 + 1?", ("1 + 1 = 2", "so 3"), (1, 0), 1, None),
        ("set-1", "2?", ("2\u2028",), (1,), -1, None),
    ]


def test_labels_of_every_step(tmp_path: Path):
    rows = [
        {"question": "q", "steps": ["a", "b", "c"], "labels": [1, 0, 1], "answer": 7},
        {"question": "q", "steps": ["a", "b"], "labels": [True, None]},
        {"question": "q", "steps": ["a", "b"], "labels": [True, False], "label": 1},
    ]
    solutions = read_labelled_file(write(tmp_path / "s.json", rows)).solutions
    assert [s.truth for s in solutions] == [(1, 0, 1), (1, None), (1, 0)]
    assert [s.first_wrong for s in solutions] == [1, None, 1]
    assert [s.gold for s in solutions] == ["7", None, None]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"problem": "", "steps": ["a"], "label": 0}, "problem"),
        ({"problem": "q", "steps": [], "label": -1}, "steps"),
        ({"problem": "q", "steps": "a", "label": 0}, "steps"),
        ({"problem": "q", "steps": ["a", 1], "label": 0}, "steps"),
        ({"problem": "q", "steps": ["a"]}, "neither label nor labels"),
        ({"problem": "q", "steps": ["a"], "label": 1}, "label is 1"),
        ({"problem": "q", "steps": ["a"], "label": -2}, "label is -2"),
        ({"problem": "q", "steps": ["a"], "label": True}, "label is True"),
        ({"problem": "q", "steps": ["a"], "labels": [1, 1]}, "2 labels"),
        ({"problem": "q", "steps": ["a"], "labels": [0.5]}, "labels"),
        ({"problem": "q", "steps": ["a", "b"], "labels": [0, 1], "label": 1}, "differ"),
        (["q"], "a list"),
    ],
)
def test_rows_that_do_not_hold(tmp_path: Path, row: object, message: str):
    with pytest.raises(DataError, match=message) as caught:
        read_labelled_file(write(tmp_path / "bad.json", [FIRST, row]))
    assert "bad.json, entry 2" in caught.value.problem


def test_files_that_do_not_hold(tmp_path: Path):
    with pytest.raises(DataError, match="does not exist"):
        read_labelled_file(str(tmp_path / "none.json"))
    with pytest.raises(DataError, match="no solution"):
        read_labelled_file(write(tmp_path / "empty.json", []))
    with pytest.raises(DataError, match="id 'a'"):
        read_labelled_file(write(tmp_path / "twice.json", [FIRST, FIRST]))
    torn = tmp_path / "torn.jsonl"
    torn.write_text(json.dumps(FIRST) + "\n{")
    with pytest.raises(DataError, match="line 2"):
        read_labelled_file(str(torn))
    (tmp_path / "torn.json").write_text("[{")
    with pytest.raises(DataError, match="not JSON"):
        read_labelled_file(str(tmp_path / "torn.json"))
    (tmp_path / "latin.json").write_bytes(b"[\xff]")
    with pytest.raises(DataError, match="UTF-8"):
        read_labelled_file(str(tmp_path / "latin.json"))


def test_subsets_have_the_name_given_or_the_files(tmp_path: Path):
    path = write(tmp_path / "gsm8k.json", [FIRST, {**FIRST, "id": "b"}])
    subsets = read_subsets([path, f"again={path}"], limit=1)
    assert {name: [s.solution_id for s in file.solutions] for name, file in subsets.items()} == {
        "gsm8k": ["a"], "again": ["a"],
    }  # fmt: skip
    with pytest.raises(DataError, match="'gsm8k' is given twice"):
        read_subsets([path, path])


def test_a_limit_spreads_over_a_sorted_file(tmp_path: Path):
    path = tmp_path / "sorted.jsonl"  # as ProcessBench's files: what comes first is all wrong
    entries = [{"problem": "p", "steps": ["s"], "label": 0 if index < 6 else -1} for index in range(10)]
    path.write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    (kept,) = read_subsets([str(path)], limit=4).values()
    assert [solution.solution_id for solution in kept.solutions] == ["sorted-0", "sorted-2", "sorted-5", "sorted-7"]
    assert [
        len(some.solutions) for limit in (1, 10, 99) for some in read_subsets([str(path)], limit=limit).values()
    ] == [
        1,
        10,
        10,
    ]


@pytest.mark.skipif("BCPG_PROCESSBENCH" not in os.environ, reason="BCPG_PROCESSBENCH names a directory of its files")
def test_the_published_files_have_the_published_sizes():
    published = {"gsm8k": (207, 193), "math": (594, 406), "olympiadbench": (661, 339), "omnimath": (759, 241)}
    found = 0
    for path in Path(os.environ["BCPG_PROCESSBENCH"]).glob("processbench_*.json"):
        truth = [solution.first_wrong for solution in read_labelled_file(str(path)).solutions]
        num_right = truth.count(NO_ERROR)
        assert (len(truth) - num_right, num_right) == published[path.stem.removeprefix("processbench_")]
        found += 1
    assert found
