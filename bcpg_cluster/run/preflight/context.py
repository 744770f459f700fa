"""How many tokens of a prompt and its response together the policy's engines take."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from bcpg_cluster.config.embedded import resolve_asset
from bcpg_cluster.config.run import Config
from bcpg_cluster.run.build.engine_defaults import engine_options
from bcpg_cluster.stages.graph import ROLLOUT_POOL


def policy_context(config: Config) -> int | None:
    """``max_model_len`` of the engines' options, else what the model's ``config.json`` says.

    ``None`` where neither says it: a model that is not on this machine, or one whose positions are scaled, in a way that only
    vLLM knows.
    """
    asked = config.policy.engine_args.get("max_model_len") or engine_options(config, ROLLOUT_POOL).get("max_model_len")
    if isinstance(asked, int) and asked > 0:
        return asked
    if config.policy.kind == "fake":
        return None
    content = model_config(resolve_asset(config.policy.model))
    inner = content.get("text_config")
    text = inner if isinstance(inner, dict) else content
    longest = text.get("max_position_embeddings")
    return longest if isinstance(longest, int) and not text.get("rope_scaling") else None


def model_config(model: str) -> dict[str, Any]:
    """A model directory's ``config.json``; empty where it cannot be read."""
    try:
        content = json.loads((Path(model) / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
