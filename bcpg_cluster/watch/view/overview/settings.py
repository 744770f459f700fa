"""A run's configuration key by key beside the defaults, and what its method is in plain words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import MISSING, asdict, fields, is_dataclass
from typing import Any

import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from bcpg_cluster.config.run import Config
from bcpg_cluster.config.section import key_of
from bcpg_cluster.watch.view.overview.records import ConfigLine

_NO_DEFAULT = object()


def config_lines(config: Config) -> tuple[ConfigLine, ...]:
    """Every key with its value and its default, in the order of the file."""
    return tuple(_lines((), config))


def _lines(path: tuple[str, ...], section: BaseModel) -> Iterator[ConfigLine]:
    for name, field in type(section).model_fields.items():
        value, here = getattr(section, name), (*path, key_of(name))
        if isinstance(value, BaseModel):
            yield from _lines(here, value)
        elif is_dataclass(value):
            for of_value in fields(value):
                default = _NO_DEFAULT if of_value.default is MISSING else of_value.default
                yield _line(".".join((*here, of_value.name)), getattr(value, of_value.name), default)
        elif isinstance(value, Mapping) and value and all(isinstance(item, BaseModel) for item in value.values()):
            for key, item in value.items():
                yield from _lines((*here, str(key)), item)
        else:
            yield _line(".".join(here), value, _default(field))


def _default(field: FieldInfo) -> Any:
    return _NO_DEFAULT if field.is_required() else field.get_default(call_default_factory=True, validated_data={})


def _line(key: str, value: Any, default: Any) -> ConfigLine:
    has_default = default is not _NO_DEFAULT
    return ConfigLine(key, _text(value), _text(default) if has_default else None, has_default and value != default)


def _text(value: Any) -> str:
    """As one short line of YAML; plain values without its library, which is slow."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, int | float) or (isinstance(value, str) and value.isprintable()):
        return str(value)
    if value in ({}, [], ()):
        return "{}" if value == {} else "[]"
    if isinstance(value, BaseModel):
        value = value.model_dump(mode="json")
    elif is_dataclass(value) and not isinstance(value, type):
        value = asdict(value)
    elif isinstance(value, tuple):
        value = [*value]
    return yaml.safe_dump(value, default_flow_style=True, width=10_000).removesuffix("\n").removesuffix("\n...")


def method_words(config: Config) -> str:
    """What the run trains on, and what it spares."""
    voters = " and ".join(config.voters) if len(config.voters) < 3 else f"{len(config.voters)} judges"
    rule = {
        "all": "all call right" if len(config.voters) > 1 else "calls right",
        "any": "at least one calls right",
        "majority": "more than half call right",
        "k_of_n": f"at least {config.weigh.num_needed} call right",
        "weighted": "call right by their weighted votes",
    }[config.weigh.rule]
    beta = config.weigh.beta
    spared = {0.0: "carry no penalty", 1.0: "carry the full penalty"}.get(beta, f"count {beta:g} times")
    which = "steps" if config.weigh.mine == "consensus" else "leading steps"
    return (
        f"Objective {config.objective.name}: of a wrong answer, tokens of {which} that {voters} ({rule}) are mined and "
        f"{spared} (weigh.beta {beta:g}); all other tokens are trained on by the answer's advantage."
    )
