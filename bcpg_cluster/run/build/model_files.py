"""What a model's files say before anything loads it: its shape, its context, the size of its weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from bcpg_cluster.config.embedded import resolve_asset
from bcpg_cluster.run.build.model_memory import KNOWN, ModelShape, shape_from


def config_json(model: str) -> dict[str, Any] | None:
    """A model's ``config.json``, from its directory or the hub's cache here; ``None`` where neither has a readable one."""
    folder = Path(resolve_asset(model))
    path: Path | None = folder / "config.json"
    if not folder.is_dir():
        path = _in_hub_cache(model)
    if path is None or not path.is_file():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:  # preflight says what is wrong with it
        return None
    return content if isinstance(content, dict) else None


def _in_hub_cache(model: str) -> Path | None:
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        found = try_to_load_from_cache(model, "config.json")
    except HFValidationError:  # a path, not an id
        return None
    return Path(found) if isinstance(found, str) else None


def model_shape(model: str) -> ModelShape | None:
    """A model's shape, from its files or the list of known ones; ``None`` when neither has it."""
    content = config_json(model)
    return KNOWN.get(model) if content is None else shape_from(_language_part(content))


def _language_part(content: dict[str, Any]) -> dict[str, Any]:
    """Of a model that also sees or hears, the language model's own settings."""
    inner = content.get("text_config")
    return inner if isinstance(inner, dict) else content


def longest_context(model: str) -> int | None:
    """Most tokens of a prompt and its response that the model was made for; ``None`` where its files are not here."""
    found = _language_part(config_json(model) or {}).get("max_position_embeddings")
    return found if isinstance(found, int) and found > 0 else None


def model_bytes(model: str) -> int | None:
    """Bytes of a local model's weights; ``None`` for one that is not here."""
    folder = Path(resolve_asset(model))
    if not folder.is_dir():
        return None
    return sum(path.stat().st_size for path in folder.glob("*.safetensors"))
