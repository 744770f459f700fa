"""What every config section is: frozen, and closed to unknown keys."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, get_args

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """A part of the configuration: frozen, and unknown keys are errors.

    The text below a field is its entry in docs/config.md: one sentence of its own for every key.
    """

    model_config = ConfigDict(
        frozen=True, extra="forbid", protected_namespaces=(), use_attribute_docstrings=True, populate_by_name=True
    )


def key_of(field: str) -> str:
    """What a field is called in files: a field that would be a Python keyword has an underscore after it."""
    return field.removesuffix("_")


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


def check_class(kind: str, name: str | None, options: Mapping[str, Any]) -> None:
    """Raises :class:`ValueError` unless a section of kind ``python``, and no other, names a class of the user's own."""
    if (kind == "python") != (name is not None):
        raise ValueError(
            "kind 'python' needs a class (file.py:Name or package.module:Name), and no other kind takes one"
        )
    if options and kind != "python":
        raise ValueError(f"options are for kind 'python', and this is {kind!r}")


def num_ranks(engine_args: Mapping[str, Any]) -> int:
    """Parts (GPUs) of one vLLM engine: tensor times pipeline parallel."""
    return int(engine_args.get("tensor_parallel_size", 1)) * int(engine_args.get("pipeline_parallel_size", 1))
