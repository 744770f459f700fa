"""Labelled steps of TRL and PRM800K; contents are invented, the layouts are the published ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bcpg_cluster.errors import DataError
from bcpg_cluster.prompts.labelled_steps import read_labelled_file


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
    (solution,) = read_labelled_file(write(tmp_path / "trl.jsonl", [row])).solutions
    assert (solution.problem, solution.steps) == ("1+1?", ("One.", "Two.", "Three."))
    assert (solution.truth, solution.first_wrong, solution.gold) == ((1, 0, 1), 1, None)


def test_trl_in_parquet(tmp_path: Path) -> None:
    pq.write_table(
        pa.table({"prompt": ["p"], "completions": [["a", "b"]], "labels": [[True, True]]}), tmp_path / "t.parquet"
    )
    (solution,) = read_labelled_file(str(tmp_path / "t.parquet")).solutions
    assert (solution.truth, solution.first_wrong) == ((1, 1), -1)


def test_prm800k_neutral_is_not_wrong(tmp_path: Path) -> None:
    steps = [
        step([completion("Bad start", -1), completion("3*4=12", 1)], 1),
        step([completion("Let us see.", 0)], 0),
        step([completion("2+12=15", -1)], None),
    ]
    (solution,) = read_labelled_file(write(tmp_path / "p.jsonl", [entry(steps, "found_error")])).solutions
    assert solution.steps == ("3*4=12", "Let us see.", "2+12=15")
    assert (solution.truth, solution.unknown_by_reason, solution.gold) == ((1, None, 0), {"neutral": 1}, "14")
    assert solution.first_wrong is None  # the neutral step before it leaves that open


def test_prm800k_written_by_a_person_has_no_rating(tmp_path: Path) -> None:
    steps = [
        step([completion("x", -1)], None, human={"text": "By hand", "rating": None}),
        step([completion("14", 1)], 0),
    ]
    (solution,) = read_labelled_file(write(tmp_path / "p.jsonl", [entry(steps)])).solutions
    assert (solution.steps, solution.truth) == (("By hand", "14"), (None, 1))
    assert solution.unknown_by_reason == {"written_by_hand": 1}


def test_prm800k_stops_at_the_wrong_step_with_alternatives_beside_it(tmp_path: Path) -> None:
    last = step([completion("Another way", 0), completion("2+12=15", -1), completion("Third", 1)], None)
    row = entry([step([completion("3*4=12", 1)], 0), last], "found_error")
    row["question"]["pre_generated_steps"] = ["3*4=12", "2+12=15", "Never labelled"]
    (solution,) = read_labelled_file(write(tmp_path / "p.jsonl", [row])).solutions
    assert (solution.steps, solution.truth, solution.first_wrong) == (("3*4=12", "2+12=15"), (1, 0), 1)


def test_prm800k_flagged_has_no_truth_whatever_its_rating(tmp_path: Path) -> None:
    flagged = {"text": "Hm.", "rating": -1, "flagged": True}
    rows = [entry([step([flagged], 0), step([completion("14", None)], 0), step([completion("so", 1)], 0)])]
    (solution,) = read_labelled_file(write(tmp_path / "p.jsonl", rows)).solutions
    assert (solution.truth, solution.unknown_by_reason) == ((None, None, 1), {"flagged": 1, "unrated": 1})


def test_prm800k_entries_that_say_nothing_are_counted_by_reason(tmp_path: Path) -> None:
    several, right = step([completion("x", 1), completion("y", 1)], None), step([completion("14", 1)], 0)
    nothing = [
        (entry([right], "bad_problem"), "bad_problem"),  # what is right of a broken problem is not known
        (entry([several], "give_up"), "give_up"),
        (entry([step([completion("Hm", 0)], 0)]), "neutral"),
        (entry([step([completion("Hm", None)], 0)]), "unrated"),
        (entry([step([{"text": "Hm", "rating": 1, "flagged": True}], 0)]), "flagged"),
        (entry([step([], None, human="By hand")]), "written_by_hand"),
        (entry([several]), "no_steps"),
    ]
    file = read_labelled_file(write(tmp_path / "p.jsonl", [*(row for row, _ in nothing), entry([right], "give_up")]))
    (solution,) = file.solutions
    assert (solution.solution_id, solution.truth) == ("p-7", (1,))  # what was rated before giving up counts
    assert file.left_out == {reason: 1 for _, reason in nothing}
    with pytest.raises(DataError, match="no solution: 1 bad_problem, 1 give_up say nothing"):
        read_labelled_file(write(tmp_path / "n.jsonl", [row for row, _ in nothing[:2]]))


def test_another_rating_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="labels is"):
        read_labelled_file(write(tmp_path / "p.jsonl", [entry([step([completion("14", 2)], 0)])]))


@pytest.mark.parametrize("step", [{"completions": [], "chosen_completion": 0}, "no object", {"chosen_completion": "a"}])
def test_a_broken_entry_of_prm800k_is_named(step: Any, tmp_path: Path) -> None:
    entry = {"question": {"problem": "1+1?"}, "label": {"steps": [step]}}
    (tmp_path / "steps.jsonl").write_text(json.dumps(entry) + "\n")
    with pytest.raises(DataError, match="entry 1: not as PRM800K has it"):
        read_labelled_file(str(tmp_path / "steps.jsonl"))
