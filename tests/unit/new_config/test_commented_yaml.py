"""commented_yaml.py: what is written is what is read."""

from __future__ import annotations

from typing import Any

import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from bcpg_cluster.new_config.commented_yaml import Why, plain, render

SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
TREES = st.recursive(
    SCALARS, lambda inner: st.dictionaries(st.text(), inner) | st.lists(inner) | st.builds(Why, inner, st.just("why")),
    max_leaves=12,
)  # fmt: skip


def without_nested_reasons(value: Any) -> Any:
    """Lists and reasons hold plain values, as proposals do."""
    if isinstance(value, Why):
        return Why(stripped(value.value), value.comment)
    if isinstance(value, dict):
        return {key: without_nested_reasons(item) for key, item in value.items()}
    return stripped(value)


def stripped(value: Any) -> Any:
    if isinstance(value, Why):
        return stripped(value.value)
    if isinstance(value, dict):
        return {key: stripped(item) for key, item in value.items()}
    return [stripped(item) for item in value] if isinstance(value, list) else value


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(st.text(), TREES, min_size=1).map(without_nested_reasons))
def test_any_tree_comes_back(tree: dict[str, Any]):
    assert yaml.safe_load(render(tree)) == plain(tree)


def test_how_it_looks():
    tree = {"name": Why("a", "who"), "train": {"rate": Why(0.5, "a guess"), "wide": Why("x" * 70, "before it")}}
    assert render(tree).splitlines() == [
        "name: a                                   # who",
        "",
        "train:",
        "  rate: 0.5                               # a guess",
        "  # before it",
        f"  wide: {'x' * 70}",
    ]
