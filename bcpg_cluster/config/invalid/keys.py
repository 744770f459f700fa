"""The faulty keys of a configuration, in plain words."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from itertools import groupby
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from bcpg_cluster.config.invalid.partial import PartialConfig, read_rest
from bcpg_cluster.config.run import Config
from bcpg_cluster.config.section import key_of, section_in
from bcpg_cluster.errors import ConfigError, page
from bcpg_cluster.stages.train.objective import OBJECTIVES

_UNKNOWN = ("extra_forbidden", "unexpected_keyword_argument")
_UNKNOWN_KEY = "unknown key"


@dataclass(frozen=True, slots=True)
class FaultyKey:
    """A key that is wrong.

    Attributes:
        key: as it is written in a file, dots between sections; empty for a fault between sections.
        problem: what is wrong with it, with the value where that says more.
        near: known keys that an unknown one resembles, the nearest first.
    """

    key: str
    problem: str
    near: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.key}: {self.problem}" if self.key else self.problem


class InvalidConfigError(ConfigError):
    """A configuration with faulty keys.

    Attributes:
        where: the file it comes from.
        keys: every one of them.
        content: all that it says.
    """

    def __init__(self, where: str, keys: tuple[FaultyKey, ...], content: Mapping[str, Any]) -> None:
        near = [f"{' or '.join(key.near)} for {key.key}" for key in keys if key.near]
        named = ["correct what is named above"] if len(near) < len(keys) else []
        guessed = [f"did you mean {', '.join(near)}?"] if near else []
        super().__init__(
            f"{where} is invalid:\n    " + "\n    ".join(map(str, keys)),
            rule=f"known keys with values of the stated kind ({page('config.md')} lists them; `bcpg-cluster validate` checks)",
            remedy="; ".join([*named, *guessed]),
        )
        self.where, self.keys, self.content = where, keys, content

    def __reduce__(self) -> tuple[object, ...]:
        return (InvalidConfigError, (self.where, self.keys, self.content))

    @property
    def rest(self) -> PartialConfig:
        """What can be read of it: the sections without a fault. A section with an unknown name may be any that is not there."""
        faulty = {name.partition(".")[0] for key in self.keys for name in (key.key, *key.near)}
        if any(key.problem == _UNKNOWN_KEY and "." not in key.key for key in self.keys):
            sections = {name for name, field in Config.model_fields.items() if section_in(field.annotation)}
            faulty |= sections - {*self.content}
        return read_rest(self.content, faulty)


def faulty_keys(error: ValidationError) -> tuple[FaultyKey, ...]:
    """What pydantic found wrong, a record a key."""
    by_key = groupby(error.errors(include_url=False), lambda item: _written(item["loc"]))
    return tuple(_fault(".".join(parts), list(items)) for parts, items in by_key)


def _written(location: tuple[str | int, ...]) -> tuple[str, ...]:
    """A place as a file names it: without the name of the objective or of the kind of value that was tried."""
    parts = [str(part) for part in location]
    if parts[:1] == ["objective"] and len(parts) > 1 and parts[1] in OBJECTIVES:
        del parts[1]
    tried = [n for n, part in enumerate(parts) if part.startswith(("literal[", "tuple[")) or part == "bool"]
    return tuple(parts[: tried[0]] if tried else parts)


def _fault(key: str, items: list[ErrorDetails]) -> FaultyKey:
    """One record of all that was tried with a key's value; of a list, only of its faulty entry."""
    items = [item for item in items if any(isinstance(part, int) for part in item["loc"][-1:])] or items
    first = items[0]
    if first["type"] == "union_tag_invalid":
        wanted = " or ".join(first["ctx"]["expected_tags"].rsplit(", ", 1))
        return FaultyKey(f"{key}.name", f"must be {wanted} (got {first['ctx']['tag']!r})")
    problem = ", or ".join(dict.fromkeys(_plainly(item) for item in items)).replace(", or must be ", ", or ")
    if first["type"] in _UNKNOWN:
        where = f" for the objective {first['loc'][1]!r}" if key.startswith("objective.") else ""
        return FaultyKey(key, problem + where, _near(key, first["loc"]))
    if first["type"] in ("missing", "missing_argument", "value_error"):  # these say enough without the value
        return FaultyKey(key, problem)
    return FaultyKey(key, f"{problem} (got {_shown(first['input'])})")


def _plainly(item: ErrorDetails) -> str:
    """What pydantic found wrong, without its own words for errors."""
    known = {
        "model_attributes_type": "must be a mapping of keys to values, such as {name: bcpg}",
        "missing": "required, but missing",
        "missing_argument": "required, but missing",
        "string_type": "must be text",
        "int_type": "must be a whole number",
        "int_parsing": "must be a whole number",
        "int_from_float": "must be a whole number",
        "float_type": "must be a number",
        "float_parsing": "must be a number",
        "bool_type": "must be true or false",
        "bool_parsing": "must be true or false",
        "dict_type": "must be a mapping of keys to values",
        "model_type": "must be a mapping of keys to values",
        "tuple_type": "must be a list",
        "list_type": "must be a list",
        **dict.fromkeys(_UNKNOWN, _UNKNOWN_KEY),
    }
    context = item.get("ctx", {})
    match item["type"]:
        case "value_error":
            return str(context.get("error", item["msg"]))
        case "greater_than_equal":
            return f"must be at least {context['ge']:g}"
        case "less_than_equal":
            return f"must be at most {context['le']:g}"
        case "string_pattern_mismatch":
            return f"must match the pattern {context['pattern']}"
        case kind:
            return known.get(kind, item["msg"].replace("Input should be", "must be", 1))


def _shown(value: Any) -> str:
    """A value as YAML has it."""
    if value is None:
        return "nothing"
    return json.dumps(value) if isinstance(value, bool) else repr(value)


def _near(key: str, location: tuple[str | int, ...]) -> tuple[str, ...]:
    """Known keys that resemble the last part of ``key``, from the section it stands in."""
    *above, last = key.split(".")
    if above == ["objective"]:
        names: Iterable[str] = [field.name for field in fields(OBJECTIVES[str(location[1])])]
    else:
        section: type[BaseModel] = Config
        for part in above:
            field = section.model_fields.get(part)
            if field is not None:  # else the name of a judge or a pool
                section = section_in(field.annotation) or section
        names = map(key_of, section.model_fields)
    return tuple(".".join([*above, guess]) for guess in difflib.get_close_matches(last, names, n=2))
