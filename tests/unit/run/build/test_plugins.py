"""run/build/plugins.py: code of the user's own belongs to the run's identity, and members find it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bcpg_cluster.config.changes import deciding_changes
from bcpg_cluster.errors import ConfigError
from bcpg_cluster.run.build.default_config import read_config
from bcpg_cluster.run.build.plugins import pin_plugins, with_absolute_plugins

REWARD = ["verify={kind: function, function: './my_rewards.py:reward'}"]


@pytest.fixture
def reward_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "my_rewards.py"
    file.write_text("def reward(response, gold): return float(gold in response)\n")
    return file


def test_an_edited_reward_file_is_another_run(reward_file: Path):
    before = read_config(None, REWARD, None)
    assert read_config(None, REWARD, None).identity == before.identity
    reward_file.write_text("def reward(response, gold): return 1.0\n")
    after = read_config(None, REWARD, None)
    assert after.identity != before.identity
    assert [change.path for change in deciding_changes(before, after)] == [("verify", "function_digest")]


def test_members_get_an_absolute_path_and_the_same_identity_stays(reward_file: Path):
    config = read_config(None, REWARD, None)
    assert config.verify.function == "./my_rewards.py:reward"
    assert with_absolute_plugins(config).verify.function == f"{reward_file}:reward"
    by_module = config.model_copy(update={"verify": config.verify.model_copy(update={"function": "pkg.mod:f"})})
    assert with_absolute_plugins(by_module) == by_module


def test_a_function_by_module_has_no_digest():
    """Runs made before there were digests keep their identity."""
    content: dict[str, Any] = {"verify": {"kind": "function", "function": "json:loads"}}
    pin_plugins(content)
    assert content == {"verify": {"kind": "function", "function": "json:loads"}}


def test_a_digest_that_is_given_stays(reward_file: Path):
    config = read_config(None, [*REWARD, "verify.function_digest=abcd"], None)
    assert config.verify.function_digest == "abcd"


@pytest.mark.parametrize(
    ("function", "problem"),
    [("./gone.py:f", "there is no file"), ("my_rewards.py", "not an import path"), ("a b:f", "not an import path")],
)
def test_files_and_names_that_are_not_there(reward_file: Path, function: str, problem: str):
    with pytest.raises(ConfigError, match=problem) as caught:
        read_config(None, [f"verify={{kind: function, function: '{function}'}}"], None)
    assert "verify.function" in caught.value.problem and caught.value.rule and caught.value.remedy


@pytest.mark.parametrize(
    "content", [{}, {"verify": None}, {"verify": {"function": 3}}, {"judges": []}, {"judges": {"a": 1}}]
)
def test_sections_of_another_kind_are_left_to_the_check(content: dict[str, Any]):
    before = dict(content)
    pin_plugins(content)
    assert content == before
