"""What every config section is: frozen, and closed to unknown keys."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, get_args

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """A part of the configuration: frozen, and unknown keys are errors.

    The text below a field is its entry in docs/config.md: one sentence of its own for every key.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=(), use_attribute_docstrings=True)


def section_in(annotation: Any) -> type[BaseModel] | None:
    """The section an annotation holds: itself, optional, or by name in a mapping. ``None`` for any other value."""
    for kind in (annotation, *get_args(annotation)):
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            return kind
    return None


def check_not_in_engine_args(engine_args: Mapping[str, Any], section: str, names: Sequence[str]) -> None:
    """Raises :class:`ValueError` for an option that other parts need too and that is set for vLLM alone."""
    for name in names:
        if name in engine_args:
            raise ValueError(
                f"engine_args sets {name}, which other parts need too; set {section}.{name} instead and remove it there"
            )


def num_ranks(engine_args: Mapping[str, Any]) -> int:
    """Parts (GPUs) of one vLLM engine: tensor times pipeline parallel."""
    return int(engine_args.get("tensor_parallel_size", 1)) * int(engine_args.get("pipeline_parallel_size", 1))
