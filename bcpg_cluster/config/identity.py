"""Which keys decide a run's results: the marks on config fields, and the part of a config that they select.

A mark stands in a field's annotation. A section's mark holds for every key inside it that has none of its own::

    deadline_s: Annotated[float, Decides.NEVER] = Field(300.0, gt=0)

Everything that needs to know reads the marks here: a run's identity, the list of differences when a directory is refused,
`bcpg-cluster stage --set`, and docs/config.md.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from bcpg_cluster.config.section import section_in

RerunStage = Literal["segment", "weigh", "train"]
"""Stages that may be run again with other settings, in the order of a round."""


class Decides(Enum):
    """Whether a key decides results, and so belongs to a run's identity. A key without a mark does."""

    ALWAYS = "always"
    WHEN_SET = "when set"
    """For keys added later: left out of the identity while the key has its default, so runs made before it resume."""
    NEVER = "never"
    """The key may change at any start of a run."""


@dataclass(frozen=True, slots=True)
class FirstReadBy:
    """The earliest stage that reads a key. Running that stage again, or one before it, may change the key."""

    stage: RerunStage


@dataclass(frozen=True, slots=True)
class Marks:
    """All that is marked on a key; ``first_read_by`` is ``None`` where no stage can be run again with another value."""

    decides: Decides = Decides.ALWAYS
    first_read_by: RerunStage | None = None

    def may_change_with(self, stage: str) -> bool:
        """Whether the key may change when ``stage`` is run again."""
        order: tuple[str, ...] = get_args(RerunStage)
        return self.first_read_by is not None and stage in order[: order.index(self.first_read_by) + 1]


def marks_at(root: type[BaseModel], path: Sequence[str]) -> Marks:
    """The marks of the key at ``path``: its own, or else the nearest around it.

    A path may lead on into a value (an option of ``engine_args``, of an objective); the marks are those of the key.
    """
    marks, section, parts = Marks(), section_in(root), list(path)
    while parts and section is not None and parts[0] in section.model_fields:
        field = section.model_fields[parts.pop(0)]
        marks = _marks_over(marks, field)
        section = section_in(field.annotation)
        if get_origin(field.annotation) is dict:
            parts = parts[1:]  # a name of the user's choice
    return marks


def deciding_content(section: BaseModel) -> dict[str, Any]:
    """The part of a section that decides results, as JSON values."""
    content = section.model_dump(mode="json")
    kept = {}
    for name, field in type(section).model_fields.items():
        value, decides = getattr(section, name), _marks_over(Marks(), field).decides
        if decides is Decides.NEVER or (decides is Decides.WHEN_SET and _is_unset(field, value)):
            continue
        kept[name] = _deciding_value(value, content[name])
    return kept


def _marks_over(around: Marks, field: FieldInfo) -> Marks:
    decides = next((mark for mark in field.metadata if isinstance(mark, Decides)), around.decides)
    read = next((mark.stage for mark in field.metadata if isinstance(mark, FirstReadBy)), around.first_read_by)
    return Marks(decides, read)


def _is_unset(field: FieldInfo, value: Any) -> bool:
    default = field.get_default(call_default_factory=True)
    return value == default or (default is None and value == "")  # an empty text names nothing


def _deciding_value(value: Any, content: Any) -> Any:
    if isinstance(value, BaseModel):
        return deciding_content(value)
    if isinstance(value, Mapping):
        return {name: _deciding_value(item, content[name]) for name, item in value.items()}
    if dataclasses.is_dataclass(value):  # an objective
        added: frozenset[str] = getattr(value, "added_later", frozenset())
        unset = {f.name for f in dataclasses.fields(value) if f.name in added and getattr(value, f.name) == f.default}
        return {name: item for name, item in content.items() if name not in unset}
    return content
