"""config/load.py: YAML as people write it, and what is wrong with it in plain words."""

from __future__ import annotations

import pytest
import yaml

from bcpg_cluster.config.load import load_config, read_yaml, shipped_configs


def test_anchors_and_merges_are_no_double_keys():
    text = """
a: {n: &n {<<: &m {x: 1, y: 2}, x: 3}}
b: {<<: *n, y: 5}
c: *n
d: [{x: 1}, {x: 2}]
"""
    assert read_yaml(text) == {
        "a": {"n": {"x": 3, "y": 2}},
        "b": {"x": 3, "y": 5},
        "c": {"x": 3, "y": 2},
        "d": [{"x": 1}, {"x": 2}],
    }


@pytest.mark.parametrize(("text", "line"), [("a: 1\nb: 2\na: 3\n", 3), ("l:\n- {x: 1}\n- {x: 1,\n   x: 2}\n", 4)])
def test_a_key_that_appears_twice(text: str, line: int):
    with pytest.raises(yaml.YAMLError, match=f"appears twice(.|\n)*line {line}"):
        read_yaml(text)


def test_texts_without_content():
    assert read_yaml("") is None and read_yaml("# only words\n") is None and read_yaml("3") == 3


@pytest.mark.parametrize("name", shipped_configs())
def test_shipped_configs_are_read(name: str):
    assert load_config(name).name
