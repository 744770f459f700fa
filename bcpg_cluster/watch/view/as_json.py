"""From records to JSON that any browser reads: ``null`` for what is unknown and for what is not a finite number."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np


def plain(value: Any) -> Any:
    """Records as objects, tuples as lists, mappings by their keys' text; never NaN or infinity."""
    if isinstance(value, str | int | None):  # bool is an int
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): plain(of_key) for key, of_key in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return plain(_opened(value))


def to_json(value: Any) -> bytes:
    """A record as compact JSON in UTF-8. A lone half of a surrogate pair, which UTF-8 lacks, becomes ``?``."""
    try:
        text = _dump(value)
    except ValueError:  # a number that is not finite; seldom, and looking for them first takes longer than all the rest
        text = _dump(plain(value))
    return text.encode("utf-8", "replace")


def to_json_line(value: Any) -> bytes:
    """The same in ASCII and with a line end, for files that some read line by line: U+2028 ends a line for many."""
    return json.dumps(json.loads(to_json(value))).encode("ascii") + b"\n"


def _dump(value: Any) -> str:
    return json.dumps(value, default=_opened, ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def _opened(value: Any) -> Any:
    """One level of what JSON does not know."""
    if is_dataclass(value):
        return {field.name: getattr(value, field.name) for field in fields(value)}
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"{type(value).__name__} has no place in the page's documents")
