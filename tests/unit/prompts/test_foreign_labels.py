"""Labelled steps of TRL and PRM800K; contents are invented, the layouts are the published ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bcpg_cluster.errors import DataError
from bcpg_cluster.prompts.labelled_steps import read_labelled_steps


def completion(text: str, rating: int | None) -> dict[str, Any]:
    return {"text": text, "rating": rating, "flagged": False}


def entry(steps: list[dict[str, Any]], finish: str = "solution") -> dict[str, Any]:
    return {
        "labeler": "invented",
        "generation": None,
        "is_quality_control_question": False,
        "question": {"problem": "2+3*4?", "ground_truth_answer": "14"},
        "label": {"steps": steps, "finish_reason": finish, "total_time": 1},
    }


def step(completions: list[dict[str, Any]], chosen: int | None, human: Any = None) -> dict[str, Any]:
    return {"completions": completions, "human_completion": human, "chosen_completion": chosen}


def write(path: Path, rows: list[Any]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_trl_has_a_boolean_a_step(tmp_path: Path) -> None:
    row = {"prompt": "1+1?", "completions": ["One.", "Two.", "Three."], "labels": [True, False, True]}
    (solution,) = read_labelled_steps(write(tmp_path / "trl.jsonl", [row]))
    assert (solution.problem, solution.steps) == ("1+1?", ("One.", "Two.", "Three."))
    assert (solution.truth, solution.first_wrong, solution.gold) == ((1, 0, 1), 1, None)


def test_trl_in_parquet(tmp_path: Path) -> None:
    pq.write_table(
        pa.table({"prompt": ["p"], "completions": [["a", "b"]], "labels": [[True, True]]}), tmp_path / "t.parquet"
    )
    (solution,) = read_labelled_steps(str(tmp_path / "t.parquet"))
    assert (solution.truth, solution.first_wrong) == ((1, 1), -1)


def test_prm800k_neutral_is_not_wrong(tmp_path: Path) -> None:
    steps = [
        step([completion("Bad start", -1), completion("3*4=12", 1)], 1),
        step([completion("Let us see.", 0)], 0),
        step([completion("2+12=15", -1)], None),
    ]
    (solution,) = read_labelled_steps(write(tmp_path / "p.jsonl", [entry(steps, "found_error")]))
    assert solution.steps == ("3*4=12", "Let us see.", "2+12=15")
    assert (solution.truth, solution.num_neutral, solution.gold) == ((1, None, 0), 1, "14")
    assert solution.first_wrong is None  # the neutral step before it leaves that open


def test_prm800k_written_by_a_person_has_no_rating(tmp_path: Path) -> None:
    steps = [
        step([completion("x", -1)], None, human={"text": "By hand", "rating": None}),
        step([completion("14", 1)], 0),
    ]
    (solution,) = read_labelled_steps(write(tmp_path / "p.jsonl", [entry(steps)]))
    assert (solution.steps, solution.truth) == (("By hand", "14"), (None, 1))


def test_prm800k_without_a_rated_step_is_left_out(tmp_path: Path) -> None:
    several = step([completion("x", 1), completion("y", 1)], None)
    rows = [entry([], "bad_problem"), entry([several], "give_up"), entry([step([completion("14", 1)], 0)])]
    (solution,) = read_labelled_steps(write(tmp_path / "p.jsonl", rows))
    assert (solution.solution_id, solution.truth) == ("p-2", (1,))


def test_another_rating_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="labels is"):
        read_labelled_steps(write(tmp_path / "p.jsonl", [entry([step([completion("14", 2)], 0)])]))


@pytest.mark.parametrize("step", [{"completions": [], "chosen_completion": 0}, "no object", {"chosen_completion": "a"}])
def test_a_broken_entry_of_prm800k_is_named(step: Any, tmp_path: Path) -> None:
    entry = {"question": {"problem": "1+1?"}, "label": {"steps": [step]}}
    (tmp_path / "steps.jsonl").write_text(json.dumps(entry) + "\n")
    with pytest.raises(DataError, match="entry 1: not as PRM800K has it"):
        read_labelled_steps(str(tmp_path / "steps.jsonl"))
