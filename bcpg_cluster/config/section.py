"""What every config section is: frozen, and closed to unknown keys."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """A part of the configuration: frozen, and unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


def check_not_in_engine_args(engine_args: Mapping[str, Any], section: str, names: Sequence[str]) -> None:
    """More than vLLM must know these. Raises :class:`ValueError` for one that is set for vLLM alone."""
    for name in names:
        if name in engine_args:
            raise ValueError(
                f"engine_args sets {name}, which not only vLLM must know; set {section}.{name} instead and take it out"
            )


def num_ranks(engine_args: Mapping[str, Any]) -> int:
    """Parts (GPUs) of one vLLM engine: tensor times pipeline parallel."""
    return int(engine_args.get("tensor_parallel_size", 1)) * int(engine_args.get("pipeline_parallel_size", 1))
