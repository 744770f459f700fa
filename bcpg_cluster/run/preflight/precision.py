"""Checks that engines and trainer compute alike enough for a push to be proven."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

from bcpg_cluster.config.embedded import resolve_asset
from bcpg_cluster.config.run import Config
from bcpg_cluster.errors import ConfigError

LOOSE_NATS: Final = 0.05
"""Two forwards of one model that round to bfloat16 differ by hundredths of nats a token (docs/decisions.md)."""
_SHORT = {"half": "float16", "float": "float32"}


def check_policy_dtype(config: Config) -> None:
    """Raises :class:`ConfigError` where the policy's engines are told another data type than the trainer computes in, and the
    canaries of a push would show it as wrong weights.
    """
    if config.policy.kind == "fake" or config.train.kind == "fake" or config.push.tolerance_nats >= LOOSE_NATS:
        return
    said = config.policy.engine_args.get("dtype")
    engine = engine_dtype(said, resolve_asset(config.policy.model))
    if engine is None or engine == config.train.dtype:
        return
    told = f"policy.engine_args.dtype is {said!r}" + ("" if said == engine else f", for this model {engine}")
    raise ConfigError(
        f"{told}, but train.dtype is {config.train.dtype!r}: after the first push the engines' log-probs would be off by more than "
        f"push.tolerance_nats ({config.push.tolerance_nats:g})",
        rule="the policy's engines compute in the data type of the trainer, so that a push can be proven",
        remedy=f"set policy.engine_args.dtype to {config.train.dtype}, or train.dtype to {engine}"
        if engine != "float16"
        else f"set policy.engine_args.dtype to {config.train.dtype}",
    )


def engine_dtype(said: object, model: str) -> str | None:
    """What vLLM would compute in; ``None`` where that is not known before it starts, or nothing is said.

    ``auto`` is the type of the model's files, but bfloat16 for float32 ones.
    """
    if said is None or not isinstance(said, str):
        return None
    if said != "auto":
        return _SHORT.get(said, said)
    try:
        content = json.loads((Path(model) / "config.json").read_text(encoding="utf-8"))
        stored = content.get("dtype") or content.get("torch_dtype") or "float32"
    except (OSError, ValueError, AttributeError):
        return None
    return "bfloat16" if stored == "float32" else str(stored)


def precision_notes(config: Config) -> list[str]:
    """For people: a tolerance too tight for what the run computes in; at most one line."""
    if config.policy.kind == "fake" or config.train.kind == "fake":
        return []
    if config.train.dtype == "float32" or config.push.tolerance_nats >= LOOSE_NATS:
        return []
    return [
        f"push.tolerance_nats is {config.push.tolerance_nats:g}, but two {config.train.dtype} forwards of one model differ by "
        "hundredths of nats a token: the first push may stop the run. Set it to 0.25, as the shipped configs for GPUs do"
    ]
