"""preflight.py: judges that could not work, and judges whose answers would be cut off, are told of before a run."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bcpg_cluster.config.run import Config
from bcpg_cluster.errors import ConfigError
from bcpg_cluster.run.preflight.judges import check_judge, judge_notes

MakeConfig = Callable[..., Config]


def judge(make_config: MakeConfig, **section: Any) -> Config:
    return make_config(judges={"j": {"kind": "llm", "model": "m"} | section}, pools={})


def test_a_cache_that_cannot_be_written(make_config: MakeConfig, tmp_path: Path):
    (tmp_path / "file").write_text("x")
    config = judge(make_config, cache=str(tmp_path / "file"))
    with pytest.raises(ConfigError, match="verdict cache"):
        check_judge("j", config.judges["j"])
    check_judge("j", judge(make_config, cache=str(tmp_path / "new" / "cache")).judges["j"])


def test_thoughts_that_a_schema_would_bind(make_config: MakeConfig):
    bound = {"answer_after": "</think>", "prompt": "embedded:taxonomy"}
    with pytest.raises(ConfigError, match=r"judges\.j: answer_after is '</think>'") as caught:
        check_judge("j", judge(make_config, **bound).judges["j"])
    assert "structured: none" in caught.value.remedy
    for change in (
        {"structured": "none"},
        {"prompt": "embedded:compact"},
        {"answer_after": None},
        {"engine_args": {"reasoning_parser": "qwen3"}},
    ):
        check_judge("j", judge(make_config, **bound | change).judges["j"])
    with pytest.raises(ConfigError, match="structured is for judges of kind 'llm'"):
        make_config(judges={"j": {"kind": "fake", "structured": "none"}})


@pytest.mark.parametrize(
    ("section", "words"),
    [
        ({}, "has no window_steps.*max_tokens 512 has room for verdicts on about 5 .*Set window_steps to 5"),
        ({"window_steps": 8}, "asks about 8 steps at once.*room for verdicts on about 5"),
        ({"max_tokens": 40, "window_steps": 1}, "about 0 .*Set window_steps to 1"),
        ({"window_steps": 5}, None),
        ({"max_tokens": 4096}, None),
        ({"view": "causal"}, None),
        ({"prompt": "embedded:compact"}, None),
        ({"prompt": "embedded:compact", "window_steps": 80}, "asks about 80 steps at once"),
    ],
)
def test_answers_that_would_be_cut_off(make_config: MakeConfig, section: dict[str, Any], words: str | None):
    notes = judge_notes(judge(make_config, **section))
    assert len(notes) == (words is not None)
    assert words is None or re.search(words, notes[0])


def test_judges_without_answers_have_no_notes(make_config: MakeConfig):
    assert judge_notes(make_config()) == []
