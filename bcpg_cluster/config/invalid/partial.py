"""What can be read of an invalid configuration: the sections without a fault, for checks that need no other."""

from __future__ import annotations

from collections.abc import Mapping, Set
from typing import Any

from pydantic import TypeAdapter

from bcpg_cluster.config.run import Config

COMPARED = frozenset({"policy", "judges", "weigh", "pools", "push", "train"})
"""The sections that the rules of :class:`Config` compare with each other: one that is broken says nothing about which is wrong."""


class MissingSectionError(Exception):
    """A check asked a :class:`PartialConfig` for a section that has a fault: it cannot be made."""


class PartialConfig(Config):
    """A configuration without its faulty sections. To ask for one of these raises :class:`MissingSectionError`, so that no check
    can take a default for what was meant.
    """

    def __getattr__(self, name: str) -> Any:
        if name in Config.model_fields:
            raise MissingSectionError(name)
        raise AttributeError(name)


def read_rest(content: Mapping[str, Any], faulty: Set[str]) -> PartialConfig:
    """The sections of ``content`` without a fault.

    Args:
        faulty: names of the others; the empty name stands for a fault between sections.
    """
    left_out = {*faulty, "objective", *(COMPARED if "" in faulty else ())}  # no check reads the objective
    read = {}
    for name, field in Config.model_fields.items():
        if name in left_out:
            continue
        kind: Any = field.annotation
        read[name] = (
            TypeAdapter(kind).validate_python(content[name])
            if name in content
            else field.get_default(call_default_factory=True)
        )
    rest = PartialConfig.model_construct(**read)
    for name in left_out:
        rest.__dict__.pop(name, None)  # where pydantic filled in a default
    return rest
