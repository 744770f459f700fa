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
from bcpg_cluster.stages.train.objective import Dpo, Kto, Nft, Rft
from bcpg_cluster.watch.view.overview.records import ConfigLine
from bcpg_cluster.watch.view.rule_words import listed

_NO_DEFAULT = object()
_NOT_SHOWN = "storage"
"""The section that may hold keys to an object store."""


def config_lines(config: Config) -> tuple[ConfigLine, ...]:
    """Every key with its value and its default, in the order of the file; without the section ``storage``."""
    return tuple(line for line in _lines((), config) if line.key.partition(".")[0] != _NOT_SHOWN)


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
    objective = f"Objective {config.objective.name}"
    if not uses_token_weights(config):
        trained = {
            "right": "right answers alone",
            "wrong": "wrong answers alone",
            "pairs": "pairs of a right and a wrong answer",
        }
        what = trained.get(config.objective.rows, "right and wrong answers")
        return f"{objective}: trains on {what}. It takes no token weights, so mined steps are only counted."
    which = "steps" if config.weigh.mine == "consensus" else "leading steps"
    return (
        f"{objective}: in a wrong answer, the tokens of {which} that {_who_calls_right(config)} right are mined: "
        f"{_treated(config.weigh.beta)} (weigh.beta {config.weigh.beta:g})."
    )


def uses_token_weights(config: Config) -> bool:
    """Whether the objective multiplies tokens by their weights, so that mining changes anything."""
    return not isinstance(config.objective, Rft | Dpo | Kto | Nft)


def _who_calls_right(config: Config) -> str:
    """The voters and the verb, by the rule: ``llm and prm both call``."""
    voters, rule = config.voters, config.weigh.rule
    names = listed(voters)
    if len(voters) == 1:
        return f"{names} calls"
    num_needed = {
        "any": 1,
        "all": len(voters),
        "k_of_n": config.weigh.num_needed,
        "majority": len(voters) // 2 + 1,
    }.get(rule)
    if num_needed is None:
        return f"the weighted votes of {names} call"
    if num_needed == len(voters):
        return f"{names} {'both' if num_needed == 2 else 'all'} call"
    if num_needed == 1:
        return f"at least one of {names} calls"
    return f"at least {num_needed} of {names} call"


def _treated(beta: float) -> str:
    if beta == 0.0:
        return "they are spared"
    if beta == 1.0:
        return "they are punished in full, like all others"
    return f"they are {'punished' if beta > 0.0 else 'rewarded'} at {abs(beta):g} of the full weight"
