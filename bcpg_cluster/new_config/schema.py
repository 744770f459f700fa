"""The JSON schema of a config file, for editors: what keys there are, what they mean, which values they take."""

from __future__ import annotations

import json
from typing import Any

from bcpg_cluster.config.run import Config

SCHEMA_LINE = "# yaml-language-server: $schema={}"
"""The first line of a YAML file, by which editors find its schema."""


def config_schema() -> str:
    """The schema as JSON text.

    It knows ``extends`` and asks for no key: a file that extends another has only what differs, and `bcpg-cluster validate` says
    what is missing.
    """
    schema = _optional(Config.model_json_schema())
    extends = {
        "type": "string",
        "description": "A shipped config's name, or a file beside this one, that this file builds on.",
    }
    schema["properties"] = {"extends": extends, **schema["properties"]}
    return json.dumps({"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}, indent=1) + "\n"


def _optional(node: Any) -> Any:
    """The schema without ``required`` anywhere (a property of that name stays)."""
    if isinstance(node, list):
        return [_optional(item) for item in node]
    if not isinstance(node, dict):
        return node
    return {key: _optional(value) for key, value in node.items() if not (key == "required" and isinstance(value, list))}
