"""tasks/run_defaults.py: what a run takes from its tasks is in its configuration, and what it says itself stays."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from bcpg_cluster.config.load import load_config, parse_config
from bcpg_cluster.config.run import Config
from bcpg_cluster.config.task_defaults import check_tasks, complete_from_tasks, task_notes
from bcpg_cluster.errors import ConfigError, DataError
from bcpg_cluster.run.preflight.prompts import read_all_prompts


def completed(**sections: Any) -> dict[str, Any]:
    content = copy.deepcopy(sections)
    complete_from_tasks(content)
    return content


def test_reward_and_measure_come_from_the_task():
    content = completed(prompts={"train": "task:gsm8k", "test": "task:math500"})
    assert content["verify"] == {"kind": "math"}
    assert content["evaluate"] == {"num_samples": 10, "temperature": 0.6, "top_p": 0.95}
    gym = "task:reasoning_gym/chain_sum"
    assert completed(prompts={"train": "own.jsonl", "test": gym})["verify"] == {
        "kind": "function",
        "function": "bcpg_cluster.tasks.reasoning_gym:score",
    }
    assert completed(prompts={"train": "task:mbpp=/here", "test": "own.jsonl"}) == {
        "prompts": {"train": "task:mbpp=/here", "test": "own.jsonl"},
        "verify": {"kind": "code"},
    }


def test_what_the_config_says_stays():
    said: dict[str, Any] = {
        "verify": {"kind": "exact", "time_limit_s": 3.0},
        "evaluate": {"num_samples": 2, "max_tokens": 9},
    }
    content = completed(prompts={"train": "task:gsm8k", "test": "task:gsm8k"}, **said)
    assert content["verify"] == said["verify"]
    assert content["evaluate"] == {"num_samples": 2, "max_tokens": 9, "temperature": 0.6, "top_p": 0.95}
    partly = completed(prompts={"train": "task:gsm8k", "test": "own.jsonl"}, verify={"time_limit_s": 3.0})
    assert partly["verify"] == {"kind": "math", "time_limit_s": 3.0}
    assert "evaluate" not in partly


@pytest.mark.parametrize(
    "content",
    [{}, {"prompts": None}, {"prompts": []}, {"prompts": {"train": 3}}, {"prompts": {"train": "a", "test": "b"}}],
)
def test_without_a_task_nothing_is_put_in(content: dict[str, Any]):
    assert completed(**content) == content
    odd = {"prompts": {"train": "task:gsm8k", "test": "task:gsm8k"}, "verify": None, "evaluate": 3}
    assert completed(**odd) == odd  # the config's own check says what is wrong with them


def test_a_task_that_is_none():
    with pytest.raises(DataError, match="unknown task 'gms8k'"):
        completed(prompts={"train": "task:gms8k", "test": "task:gsm8k"})


@pytest.fixture
def gsm8k_file(tmp_path: Path) -> str:
    file = tmp_path / "gsm8k.jsonl"
    rows = [{"question": f"{k}+1?", "answer": f"so\n#### {k + 1}"} for k in range(20)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return f"task:gsm8k={file}"


def test_a_config_file_is_completed_once_and_for_all(
    tmp_path: Path, fakes_content: Callable[[], dict[str, Any]], gsm8k_file: str
):
    """The saved config holds every key, so going on takes nothing from a task that a later release may have changed."""
    content = fakes_content()
    content["prompts"]["train"] = gsm8k_file
    file = tmp_path / "run.yaml"
    file.write_text(yaml.safe_dump(content))
    config = load_config(file, ["verify.time_limit_s=2"], complete_from_tasks)
    assert (config.verify.kind, config.verify.time_limit_s) == ("math", 2.0)
    saved = config.model_dump(mode="json")
    assert completed(**saved) == saved
    assert parse_config(saved, "saved") == config
    assert load_config(file, ["verify.kind=exact"], complete_from_tasks).verify.kind == "exact"


def test_one_verifier_reads_every_answer(make_config: Callable[..., Config], gsm8k_file: str):
    for kind, fits in [("math", True), ("exact", True), ("code", False)]:
        config = make_config(prompts={"train": gsm8k_file}, verify={"kind": kind})
        if fits:
            check_tasks(config)
            continue
        with pytest.raises(ConfigError, match=r"prompts.train is the task gsm8k.*verify.kind 'math'.*'code'"):
            check_tasks(config)
    mixed = make_config(prompts={"more_tests": {"code": "task:humaneval=/nowhere"}}, verify={"kind": "math"})
    with pytest.raises(ConfigError, match=r"prompts.more_tests.code is the task humaneval"):
        read_all_prompts(mixed)  # before any file is looked for
    check_tasks(
        make_config(prompts={"more_tests": {"code": "task:humaneval"}}, verify={"kind": "function", "function": "m:f"})
    )


def test_notes_say_what_was_taken_and_what_was_not(make_config: Callable[..., Config], gsm8k_file: str):
    config = make_config(
        prompts={"train": gsm8k_file, "test": gsm8k_file}, verify={"kind": "math"}, evaluate={"num_samples": 4}
    )
    train, test = task_notes(config)
    assert train.startswith("prompts.train, task gsm8k: as the task says: verify.kind math; asked as '{question}")
    assert "as the task says: verify.kind math, evaluate.num_samples 4; otherwise: " in test
    assert "evaluate.temperature 1.0 (the task: 0.6)" in test
    assert "evaluate.max_tokens 200 (the task: 32768)" in test
    assert task_notes(make_config()) == []
