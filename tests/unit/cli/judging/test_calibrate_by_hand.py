"""cli calibrate --labels: labels a person gave on the run page choose a judge's threshold."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from bcpg_cluster.records import SampleId
from bcpg_cluster.run.directory import load_run_config
from bcpg_cluster.watch.view.labels import HandLabel, LabelFile
from bcpg_cluster.watch.view.source import RunSource


def entry(name: str, labels: list[int | None], scores: list[float | None], tokens: list[int]) -> str:
    number = len(labels)
    return json.dumps(
        {
            "id": name,
            "problem": "p",
            "steps": ["a"] * number,
            "labels": labels,
            "tokens": tokens,
            "scores": {"prm": scores, "llm": [None] * number},
            "judges": {"prm": [None] * number, "llm": [1] * number},
        }
    )


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "labels.jsonl"
    path.write_text(
        entry("a", [1, 0, None, 0], [0.9, 0.4, 0.7, 0.1], [3, 2, 2, 1])
        + "\n"
        + entry("b", [1, 1, 1], [0.6, None, 0.9], [5, 2, 2])
        + "\n"
    )
    return path


def test_labels_by_hand_choose_the_threshold(bcpg: Callable[..., Any], file: Path):
    ended = bcpg("calibrate", "prm", "--labels", file, "--min-mined", 1, "--json")
    assert ended.code == 0, ended.err
    found = json.loads(ended.out)
    # used: 0.9 right, 0.4 wrong, 0.6 right; one right step has no score; two labels are of last steps
    assert found["steps"] == {"used": 3, "right": 2, "unscored": 1, "unlabelled": 0, "last": 2}
    chosen = found["chosen"]
    assert (chosen["lower"], chosen["upper"], chosen["precision"], chosen["recall"]) == (0.4, 0.6, 1.0, 1.0)
    assert chosen["mined_token_share"] == 8 / 10


@pytest.mark.parametrize(
    ("judge", "words"), [("llm", "gives labels, not scores"), ("none", "has nothing from judge 'none'")]
)
def test_a_judge_without_scores_is_refused(bcpg: Callable[..., Any], file: Path, judge: str, words: str):
    ended = bcpg("calibrate", judge, "--labels", file)
    assert (ended.code, words in ended.err) == (2, True)


def test_a_line_that_is_none_is_named(bcpg: Callable[..., Any], file: Path):
    with file.open("a") as more:
        more.write('{"id": "c", "labels": [1]}\n')
    ended = bcpg("calibrate", "prm", "--labels", file)
    assert (ended.code, "line 3, is not a line of hand labels" in ended.err) == (2, True)


@pytest.fixture
def labelled(finished_run: Any, tmp_path: Path) -> Path:
    """The steps of a real shard, labelled on its page as the task's truth has them; the file."""
    path = tmp_path / "labels.jsonl"
    load = partial(load_run_config, finished_run.directory)
    source = RunSource(finished_run.directory, load, LabelFile(path, "run"))
    for view in source.samples(1, 0):
        for step in view.steps:
            said = step.truth["truth"]
            assert said is not None
            source.put_label(HandLabel(SampleId(1, view.prompt_id, view.sample), step.index, said))
    return path


def test_judge_eval_measures_judges_on_what_the_page_writes(
    bcpg: Callable[..., Any], labelled: Path, config_file: Path, tmp_path: Path
):
    judges = [word for name in ("llm", "truth") for word in ("--judge", name)]
    arguments = ("--config", config_file, *judges, "--output", tmp_path / "out", "--json")
    ended = bcpg("judge-eval", "--data", labelled, *arguments)
    assert ended.code == 0, ended.err
    found = json.loads(ended.out)["subsets"]["labels"]
    rows = [json.loads(line) for line in labelled.read_text().splitlines()]
    assert found["num_solutions"] == len(rows)
    truth = found["judges"]["truth"]["steps"]
    assert (truth["precision"], truth["recall"]) == (1.0, 1.0)
    # the fake judge says of a step what it said in the run
    pairs = [pair for row in rows for pair in zip(row["judges"]["llm"], row["labels"], strict=True)]
    called_right = [label for said, label in pairs if said == 1]
    assert found["judges"]["llm"]["steps"]["precision"] == pytest.approx(sum(called_right) / len(called_right))


def test_calibrate_reads_what_the_page_writes(bcpg: Callable[..., Any], labelled: Path):
    ended = bcpg("calibrate", "prm", "--labels", labelled, "--min-mined", 1)
    assert (ended.code, "'prm' gives labels" in ended.err) == (2, True)  # fakes do
    rows = [json.loads(line) for line in labelled.read_text().splitlines()]
    for row in rows:  # as a judge that scores, and is always right, would have left them
        row["scores"]["prm"] = [0.75 if label else 0.25 for label in row["labels"]]
    labelled.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = json.loads(bcpg("calibrate", "prm", "--labels", labelled, "--min-mined", 1, "--json").out)
    assert found["steps"]["used"] == sum(len(row["steps"]) - 1 for row in rows)
    assert found["steps"]["last"] == len(rows)
    chosen = found["chosen"]
    assert (chosen["lower"], chosen["upper"], chosen["precision"], chosen["recall"]) == (0.25, 0.75, 1.0, 1.0)
