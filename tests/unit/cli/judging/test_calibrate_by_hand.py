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
    ("judge", "words"), [("llm", "gives labels, not scores"), ("none", "has no word of judge 'none'")]
)
def test_a_judge_without_scores_is_refused(bcpg: Callable[..., Any], file: Path, judge: str, words: str):
    ended = bcpg("calibrate", judge, "--labels", file)
    assert (ended.code, words in ended.err) == (2, True)


def test_a_line_that_is_none_is_named(bcpg: Callable[..., Any], file: Path):
    with file.open("a") as more:
        more.write('{"id": "c", "labels": [1]}\n')
    ended = bcpg("calibrate", "prm", "--labels", file)
    assert (ended.code, "line 3, is no line of hand labels" in ended.err) == (2, True)


def test_what_the_page_writes_is_read(bcpg: Callable[..., Any], finished_run: Any, tmp_path: Path):
    """From a run's samples through the page's file to `calibrate`: the labels of the truth give what the truth gives."""
    path = tmp_path / "labels.jsonl"
    source = RunSource(finished_run.directory, partial(load_run_config, finished_run.directory), LabelFile(path, "run"))
    num_steps = 0
    for view in source.samples(1, 0):
        id_ = SampleId(1, view.prompt_id, view.sample)
        for step in view.steps:
            source.put_label(HandLabel(id_, step.index, step.truth["truth"] or 0))
            num_steps += not step.is_last
    ended = bcpg("calibrate", "prm", "--labels", path, "--min-mined", 1)
    assert ended.code == 2
    assert "'prm' gives labels" in ended.err  # fakes label
    assert num_steps > 20
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    for row in rows:  # as a judge that scores would have left them
        row["scores"]["prm"] = [None if said is None else 0.75 * said + 0.125 for said in row["judges"]["prm"]]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = json.loads(bcpg("calibrate", "prm", "--labels", path, "--min-mined", 1, "--json").out)
    assert found["steps"]["used"] + found["steps"]["unscored"] == num_steps
    assert (found["chosen"]["lower"], found["chosen"]["upper"]) in ((0.0, 0.125), (0.125, 0.875))
