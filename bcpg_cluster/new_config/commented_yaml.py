"""YAML with comments: a tree of values, of which each may say why."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import yaml

_COLUMN = 40  # where comments begin, if the line is shorter
_LONGEST = 60  # of a line that has its comment behind it


@dataclass(frozen=True, slots=True)
class Why:
    """A value and its comment."""

    value: Any
    comment: str


def plain(tree: Mapping[str, Any]) -> dict[str, Any]:
    """The values alone."""
    return {key: _plain(value) for key, value in tree.items()}


def _plain(value: Any) -> Any:
    value = value.value if isinstance(value, Why) else value
    return plain(value) if isinstance(value, Mapping) else value


def render(tree: Mapping[str, Any], indent: int = 0) -> str:
    """Sections on lines of their own, one blank line before each at the top; whatever a :class:`Why` holds on one line."""
    lines: list[str] = []
    for key, value in tree.items():
        comment, value = (value.comment, value.value) if isinstance(value, Why) else ("", value)
        start = " " * indent + _flow(key) + ":"
        if isinstance(value, Mapping) and value and not comment:
            lines += ["", start] if indent == 0 else [start]
            lines.append(render(value, indent + 2))
            continue
        text = f"{start} {_flow(_plain(value))}"
        if len(text) > _LONGEST and comment:
            lines += [f"{' ' * indent}# {comment}", text]
        else:
            lines.append(f"{text:<{_COLUMN}}  # {comment}" if comment else text)
    return "\n".join(lines)


def _flow(value: Any) -> str:
    text: str = yaml.dump(
        value, Dumper=_OneLine, default_flow_style=True, width=math.inf, allow_unicode=True, sort_keys=False
    )
    return text.removesuffix("...\n").strip()


class _OneLine(yaml.SafeDumper):
    """Texts that would not stay on one line are quoted and escaped."""

    def represent_text(self, text: str) -> yaml.ScalarNode:
        """See ``yaml.representer``."""
        return self.represent_scalar("tag:yaml.org,2002:str", text, style=None if text.isprintable() else '"')

    def ignore_aliases(self, data: Any) -> bool:
        """Equal values are written out, each in its place."""
        return True


_OneLine.add_representer(str, _OneLine.represent_text)
