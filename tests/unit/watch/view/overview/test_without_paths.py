"""watch.view.overview.without_paths: of a path only its last part stays."""

from __future__ import annotations

import pytest

from bcpg_cluster.watch.view.overview.records import ConfigLine, Files, JudgeFacts, Overview, RunEvent, RunFacts
from bcpg_cluster.watch.view.overview.without_paths import without_paths


def shortened(text: str) -> Overview:
    """An overview in which this text stands wherever a path may."""
    judge = JudgeFacts("llm", "vote", "llm", text, "right", None)
    run = RunFacts("r", "r", None, "stopped", text, None, None, "bcpg", "", (judge,))
    event, line = RunEvent(0.0, None, "note", text), ConfigLine("prompts.train", text, text, True)
    return without_paths(Overview(1, run, (text,), (), (), None, (event,), (line,), (), Files(None)))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("/home/me/x/train.jsonl", "train.jsonl"),
        ("~/x/train.jsonl", "train.jsonl"),
        ("../data/train.jsonl", "train.jsonl"),
        ("file:///home/me/train.jsonl", "train.jsonl"),
        ("[/home/me/a.jsonl, '/home/me/b.jsonl']", "[a.jsonl, 'b.jsonl']"),
        ("8 responses made elsewhere, from /home/me/answers.jsonl", "8 responses made elsewhere, from answers.jsonl"),
        ("Qwen/Qwen3-4B", "Qwen/Qwen3-4B"),
        ("https://judge.example/v1/chat", "https://judge.example/v1/chat"),
        ("s3://bucket/runs", "s3://bucket/runs"),
        ("3 / 4 and/or 0.5", "3 / 4 and/or 0.5"),
    ],
)
def test_a_path_keeps_its_last_part(text: str, expected: str):
    found = shortened(text)
    assert (found.run.why, found.run.judges[0].model, found.notices) == (expected, expected, (expected,))
    assert (found.events[0].text, found.config[0].value, found.config[0].default) == (expected, expected, expected)


def test_a_value_that_is_a_path_may_hold_spaces():
    assert shortened("/home/my name/train.jsonl").config[0].value == "train.jsonl"
