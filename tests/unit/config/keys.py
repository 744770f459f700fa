"""Every key of a config with everything in it, and another value for each."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterator
from types import NoneType
from typing import Any, Literal, get_args, get_origin, get_type_hints

from pydantic import BaseModel

from bcpg_cluster.config.load import load_config
from bcpg_cluster.config.run import Config
from bcpg_cluster.config.section import section_in

Path = tuple[str, ...]

EVERYTHING = [
    "judges.api={kind: openai, model: m, rule: local, endpoint: {base_url: 'http://localhost/v1'}}",
    "prompts.columns={}",
    "prompts.train=task:reasoning_gym/chain_sum",
    "prompts.generated={}",
    "train.lora={}",
    *(f"tracking.{tracker}={{}}" for tracker in ("tensorboard", "trackio", "wandb", "mlflow")),
]


def full_config(objective: str = "bcpg") -> Config:
    """A config in which no optional section is missing."""
    return load_config("laptop", [*EVERYTHING, f"objective={{name: {objective}}}"])


def every_key(config: Config) -> Iterator[tuple[Path, Any, Any]]:
    """Path, annotation and value of every key of ``config``; sections only where they may be left out."""
    yield from _keys_in(config, ())


def _keys_in(section: Any, path: Path) -> Iterator[tuple[Path, Any, Any]]:
    if dataclasses.is_dataclass(section):
        hints = get_type_hints(type(section))
        options = [field.name for field in dataclasses.fields(section) if field.name != "name"]
        yield from (((*path, name), hints[name], getattr(section, name)) for name in options)
        return
    for name, field in type(section).model_fields.items():
        value, here = getattr(section, name), (*path, name)
        if section_in(field.annotation) is None and not dataclasses.is_dataclass(value):
            yield here, field.annotation, value
        elif isinstance(value, dict):
            for inner, item in value.items():
                yield from _keys_in(item, (*here, inner))
        elif value is not None:
            if NoneType in get_args(field.annotation):
                yield here, field.annotation, value
            yield from _keys_in(value, here)


def another_value(annotation: Any, value: Any) -> Any:
    """A value of the key's type that is not ``value``; bounds and rules between keys are not looked at."""
    kinds = (annotation, *get_args(annotation))
    choices = [choice for kind in kinds if get_origin(kind) is Literal for choice in get_args(kind) if choice != value]
    if choices:
        return (*value, choices[0]) if isinstance(value, tuple) else choices[0]
    if isinstance(value, BaseModel):
        return None
    if isinstance(value, bool):
        return not value
    if isinstance(value, (int, float)):
        return value + 1
    if isinstance(value, dict):
        return {**value, "more": {} if get_args(annotation)[1:] == (dict[str, Any],) else _of(get_args(annotation)[1])}
    if isinstance(value, tuple):
        return value[::-1] if value != value[::-1] else (*value, "x")
    if isinstance(value, str):
        return True if bool in kinds else ("x",) if tuple in map(get_origin, kinds) else f"{value}x"
    assert value is None, annotation
    return next(_of(kind) for kind in get_args(annotation) if kind is not NoneType)


def _of(kind: Any) -> Any:
    return ("x",) if get_origin(kind) is tuple else {str: "x", int: 7, float: 7.0, bool: True, Any: 7}[kind]


def with_value(section: Any, path: Path, value: Any) -> Any:
    """A copy of ``section`` with another value at ``path``, unchecked."""
    if not path:
        return value
    if isinstance(section, dict):
        return {**section, path[0]: with_value(section[path[0]], path[1:], value)}
    inner = with_value(getattr(section, path[0]), path[1:], value)
    if isinstance(section, BaseModel):
        return section.model_copy(update={path[0]: inner})
    changed = copy.copy(section)
    object.__setattr__(changed, path[0], inner)
    return changed
