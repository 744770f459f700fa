"""watch.view.labels: what a person says of a step, in a file that judge-eval reads as it is."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from bcpg_cluster.config.run import Config
from bcpg_cluster.errors import DataError
from bcpg_cluster.prompts.labelled_steps import read_labelled_file
from bcpg_cluster.records import SampleId
from bcpg_cluster.watch.view.labels import HandLabel, HandStep, LabelFile, hand_steps, is_hand_labelled
from bcpg_cluster.watch.view.sample import sample_view
from bcpg_cluster.watch.view.sample_records import ByHand, SampleView
from bcpg_cluster.watch.view.samples import summarise
from bcpg_cluster.watch.view.shard_tables import ShardTables

ID = SampleId(1, "p", 0)


def given(file: LabelFile, view: SampleView) -> dict[int, int]:
    """By step, the label."""
    return {step: by_hand.label for step, by_hand in file.of(ID, texts(view)).items()}


def texts(view: SampleView) -> list[str]:
    return [step.text for step in view.steps]


@pytest.fixture
def view(make_tables: Callable[..., ShardTables], config: Config) -> SampleView:
    tables = make_tables()
    return sample_view(tables, config, summarise(tables, config).samples[0])


def test_the_last_label_of_a_step_wins(tmp_path: Path, view: SampleView):
    path = tmp_path / "new" / "labels.jsonl"
    file = LabelFile(path, "run")
    for step, label, note in ((0, 1, "fine"), (1, 1, "why not"), (1, 0, "")):
        file.put(HandLabel(ID, step, label, note), view)
    assert file.of(ID, texts(view)) == {0: ByHand(1, "fine"), 1: ByHand(0, "why not")}
    assert file.num_labels == 2
    (line,) = path.read_text().splitlines()
    entry = json.loads(line)
    assert entry["labels"] == [1, 0, None]
    assert entry["notes"] == {"0": "fine", "1": "why not"}  # a second click is no other note
    assert entry["tokens"] == [2, 2, 2]
    assert entry["scores"] == {"llm": [None] * 3, "prm": [0.9, 0.95, 0.1], "truth": [None] * 3}
    assert entry["judges"] == {"llm": [1, 0, 0], "prm": [1, 1, 0], "truth": [1, 1, 0]}


def test_a_label_can_be_taken_back_with_its_note(tmp_path: Path, view: SampleView):
    path = tmp_path / "labels.jsonl"
    file = LabelFile(path, "run")
    for step, label in ((0, 1), (1, 0), (1, None)):
        file.put(HandLabel(ID, step, label, "why"), view)
    assert (given(file, view), file.num_labels) == ({0: 1}, 1)
    assert json.loads(path.read_text())["notes"] == {"0": "why"}
    file.put(HandLabel(ID, 0, None), view)
    assert (given(file, view), file.num_labels, path.read_text()) == ({}, 0, "")  # no line is left without a label


def test_judge_eval_reads_it_as_it_is(tmp_path: Path, view: SampleView):
    path = tmp_path / "labels.jsonl"
    LabelFile(path, "run").put(HandLabel(ID, 1, 0), view)
    (solution,) = read_labelled_file(str(path)).solutions
    assert solution.solution_id == "run/1/p/0"
    assert solution.problem == view.question
    assert solution.steps == tuple(step.text for step in view.steps)
    assert solution.truth == (None, 0, None)
    assert solution.gold == "42"


def test_a_file_is_taken_up_again_and_other_runs_stay_in_it(tmp_path: Path, view: SampleView):
    path = tmp_path / "labels.jsonl"
    LabelFile(path, "one").put(HandLabel(ID, 0, 1), view)
    other = LabelFile(path, "two")
    assert given(other, view) == {}
    other.put(HandLabel(ID, 0, 0), view)
    assert (given(LabelFile(path, "one"), view), given(LabelFile(path, "two"), view)) == ({0: 1}, {0: 0})
    assert LabelFile(path, "two").num_labels == 1


def test_two_that_write_one_file_lose_nothing(tmp_path: Path, view: SampleView):
    path = tmp_path / "labels.jsonl"
    one, two, other = LabelFile(path, "run"), LabelFile(path, "run"), LabelFile(path, "other")
    one.put(HandLabel(ID, 0, 1), view)
    other.put(HandLabel(ID, 2, 0), view)
    two.put(HandLabel(ID, 1, 0), view)
    assert given(LabelFile(path, "run"), view) == given(two, view) == {0: 1, 1: 0}
    assert given(LabelFile(path, "other"), view) == {2: 0}


def test_writers_wait_for_one_another(tmp_path: Path, view: SampleView):
    path, writers = tmp_path / "labels.jsonl", range(8)

    def write(writer: int) -> None:
        LabelFile(path, f"run{writer}").put(HandLabel(ID, 0, 1), view)

    with ThreadPoolExecutor(len(writers)) as threads:
        list(threads.map(write, writers))
    assert [LabelFile(path, f"run{writer}").num_labels for writer in writers] == [1] * len(writers)


def test_labels_of_steps_that_were_cut_again_give_way(tmp_path: Path, view: SampleView):
    file = LabelFile(tmp_path / "labels.jsonl", "run")
    file.put(HandLabel(ID, 2, 0, "the answer"), view)
    cut = replace(view, steps=view.steps[:2])  # two steps where there were three
    assert file.of(ID, texts(cut)) == {}
    file.put(HandLabel(ID, 1, 1), cut)
    assert file.of(ID, texts(cut)) == {1: ByHand(1)}
    entry = json.loads(file.path.read_text())
    assert (entry["labels"], entry["notes"], len(entry["steps"])) == ([None, 1], {}, 2)
    assert is_hand_labelled(entry)
    assert LabelFile(file.path, "run").num_labels == 1


@pytest.mark.parametrize(("step", "label"), [(3, 1), (-1, 1), (0, 2)])
def test_a_label_of_no_step_is_refused_and_nothing_written(tmp_path: Path, view: SampleView, step: int, label: int):
    file = LabelFile(tmp_path / "labels.jsonl", "run")
    with pytest.raises(DataError, match="which has 3 steps"):
        file.put(HandLabel(ID, step, label), view)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "text", ["no json", '{"score": 0.5, "label": 1}', '{"id": "a", "steps": ["a"], "labels": [2]}']
)
def test_another_file_is_never_written_over(tmp_path: Path, text: str):
    path = tmp_path / "labels.jsonl"
    path.write_text(text)
    with pytest.raises(DataError, match="line 1, is not a line of hand labels"):
        LabelFile(path, "run")
    assert path.read_text() == text


def test_labelled_steps_beside_a_judge(tmp_path: Path, view: SampleView):
    file = LabelFile(tmp_path / "labels.jsonl", "run")
    for step, label in ((0, 0), (2, 1)):
        file.put(HandLabel(ID, step, label), view)
    entry = json.loads(file.path.read_text())
    assert hand_steps(entry, "prm") == [HandStep(0.9, None, 0, 2, False), HandStep(0.1, None, 1, 2, True)]
    assert hand_steps(entry, "llm") == [HandStep(None, 1, 0, 2, False), HandStep(None, 0, 1, 2, True)]
    assert hand_steps(entry, "nobody") == []
    assert is_hand_labelled(entry)
    for key, value in (("tokens", [1, 2]), ("scores", {"prm": [0.1, 1.5, 0.2]}), ("labels", [1, 0, True]), ("id", 3)):
        assert not is_hand_labelled({**entry, key: value})
