"""stages/plugin.py: code of the user's own, by file and by module."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from bcpg_cluster.errors import ConfigError
from bcpg_cluster.stages.plugin import PluginName, check_plugin, load_plugin, plugin_digest, plugin_name


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("./my_rewards.py:reward", PluginName("./my_rewards.py", "reward")),
        ("/a b/c-d.py:f", PluginName("/a b/c-d.py", "f")),
        ("pkg.mod:Name", PluginName("pkg.mod", "Name")),
        ("~/r.py:f", PluginName("~/r.py", "f")),
    ],
)
def test_names(text: str, name: PluginName):
    assert plugin_name(text, "x") == name
    assert str(name) == text


@pytest.mark.parametrize(
    "text", ["", "mod", "my_rewards.py", "a.py:", ":f", "a-b:f", "a.py:f g", "./folder:f", "a.b.:f"]
)
def test_names_that_are_none(text: str):
    with pytest.raises(ConfigError, match=r"verify\.function .* is not an import path"):
        plugin_name(text, "verify.function")


def test_digests_follow_the_file_and_import_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    package = tmp_path / "plugged"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    (package / "inner.py").write_text("x = 1\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    expected = hashlib.sha256(b"x = 1\n").hexdigest()[:16]
    assert plugin_digest(plugin_name("plugged.inner:x", "k"), "k") == expected
    assert plugin_digest(plugin_name(f"{package / 'inner.py'}:x", "k"), "k") == expected
    assert plugin_digest(plugin_name("plugged.none:x", "k"), "k") is None
    assert plugin_digest(plugin_name("math:sqrt", "k"), "k") is None  # no source
    with pytest.raises(ConfigError, match=r"k '.*gone.py:f': there is no file"):
        plugin_digest(plugin_name(f"{tmp_path / 'gone.py'}:f", "k"), "k")


def test_a_file_may_import_what_lies_beside_it(tmp_path: Path):
    (tmp_path / "beside_plugin.py").write_text("VALUE = 41\n")
    file = tmp_path / "loaded_plugin.py"
    file.write_text("from beside_plugin import VALUE\nclass Judge:\n    value = VALUE + 1\n")
    name = f"{file}:Judge"
    digest = plugin_digest(plugin_name(name, "k"), "k")
    assert load_plugin(name, "k", digest).value == 42
    file.write_text("class Judge: pass\n")
    with pytest.raises(ConfigError, match="has changed since the run was started"):
        load_plugin(name, "k", digest)


@pytest.mark.parametrize(
    ("content", "problem"),
    [("1 / 0", "ZeroDivisionError: division by zero"), ("Other = 1", "has no Judge"), ("(", "SyntaxError")],
)
def test_what_cannot_be_loaded_is_said(tmp_path: Path, content: str, problem: str):
    (tmp_path / "broken_plugin.py").write_text(content)
    with pytest.raises(ConfigError, match=problem):
        load_plugin(f"{tmp_path / 'broken_plugin.py'}:Judge", "judges.j.class")


def test_a_plugin_is_looked_for_without_running_it(tmp_path: Path):
    file = tmp_path / "looked_at.py"
    file.write_text("raise RuntimeError('run')\nfrom json import loads as read\nclass A: pass\ndef f(): pass\nx = 1\n")
    for name in ("A", "f", "x", "read"):
        check_plugin(f"{file}:{name}", "k")
    check_plugin("no_such_module_here:A", "k")  # it may be where the members run
    with pytest.raises(ConfigError, match=r"has no ff; did you mean f\?"):
        check_plugin(f"{file}:ff", "k")
    file.write_text("from json import *\n")
    check_plugin(f"{file}:anything", "k")
    file.write_text("class A(:\n")
    with pytest.raises(ConfigError, match="SyntaxError"):
        check_plugin(f"{file}:A", "k")
