"""The schema that editors read: shipped configs follow it and name it, and it catches what an editor should underline."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator

from bcpg_cluster.config.load import shipped_configs

CONFIGS = Path(__file__).resolve().parents[3] / "configs"


@pytest.fixture(scope="module")
def validator() -> Draft202012Validator:
    schema = json.loads((CONFIGS / "schema.json").read_text())
    Draft202012Validator.check_schema(schema)
    return Draft202012Validator(schema)


@pytest.mark.parametrize("name", sorted(shipped_configs()))
def test_a_shipped_config_names_the_schema_and_follows_it(name: str, validator: Draft202012Validator) -> None:
    path = CONFIGS / f"{name}.yaml"
    text = path.read_text()
    line = re.match(r"# yaml-language-server: \$schema=(\S+)\n", text)
    assert line is not None
    assert (path.parent / line.group(1)).resolve() == (CONFIGS / "schema.json").resolve()
    assert [error.message for error in validator.iter_errors(yaml.safe_load(text))] == []


@pytest.mark.parametrize(
    "wrong",
    [
        {"polcy": {}},
        {"weigh": {"betta": 0.5}},
        {"weigh": {"beta": "half"}},
        {"generate": {"group_size": 1.5}},
        {"train": {"dtype": "float61"}},
    ],
)
def test_an_editor_underlines(wrong: dict[str, Any], validator: Draft202012Validator) -> None:
    assert list(validator.iter_errors(wrong))
