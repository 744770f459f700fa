"""Python values as JSON and back, for two processes of which one is not trusted: plain data and nothing that runs.

JSON's own texts, booleans, ``null``, small integers and finite floats stand for themselves. Everything else is a list that
begins with a tag: ``["l", items]`` list, ``t`` tuple, ``s`` set, ``z`` frozenset, ``d`` dict (pairs), ``i`` large integer (hex),
``f`` infinity or NaN, ``c`` complex, ``b`` bytes, ``a`` bytearray, ``r`` range, ``q`` fraction, ``D`` decimal; ``h`` is the number
of an object that stays where it is. A subclass is sent as what it extends; what a program overrides does not travel.

Also read inside the sandbox, so it imports nothing of this package.
"""

from __future__ import annotations

import math

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

_MAX_PLAIN_INT = 2**53


class NotPlain(TypeError):
    """A value that cannot be sent."""


def encode(value: Any, keep: Callable[[Any], list[Any]] | None = None) -> Any:
    """What ``json.dumps`` is given for ``value``.

    Args:
        keep: makes the reference to a value that is not plain; absent: such a value is an error.

    Raises:
        NotPlain: the value is not plain and there is no ``keep``.
        RecursionError: it is nested too deep, or contains itself.
    """
    if value is None or value is True or value is False:
        return value
    if isinstance(value, str):
        return str.__add__(value, "")
    if isinstance(value, int):
        number = int.__pos__(value)
        return number if -_MAX_PLAIN_INT <= number <= _MAX_PLAIN_INT else ["i", hex(number)]
    if isinstance(value, float):
        real = float.__pos__(value)
        return real if math.isfinite(real) else ["f", repr(real)]
    if isinstance(value, complex):
        number_pair = complex.__pos__(value)
        return ["c", encode(number_pair.real), encode(number_pair.imag)]
    if isinstance(value, (bytes, bytearray)):
        return ["b" if isinstance(value, bytes) else "a", bytes(value).hex()]
    for kind, tag, iterate in _CONTAINERS:
        if isinstance(value, kind):
            return [tag, [encode(item, keep) for item in iterate(value)]]
    if isinstance(value, dict):
        return ["d", [[encode(key, keep), encode(item, keep)] for key, item in dict.items(value)]]
    if isinstance(value, range):
        return ["r", [encode(part) for part in (value.start, value.stop, value.step)]]
    return _encode_rare(value, keep)


_CONTAINERS: tuple[tuple[type, str, Callable[[Any], Any]], ...] = (
    (list, "l", list.__iter__),
    (tuple, "t", tuple.__iter__),
    (set, "s", set.__iter__),
    (frozenset, "z", frozenset.__iter__),
)


def _encode_rare(value: Any, keep: Callable[[Any], list[Any]] | None) -> Any:
    kind = type(value)
    name = f"{kind.__module__}.{kind.__qualname__}"
    if name == "fractions.Fraction":
        return ["q", encode(value.numerator), encode(value.denominator)]
    if name == "decimal.Decimal":
        return ["D", str(value)]
    if kind.__module__ == "numpy" and getattr(value, "shape", None) == () and hasattr(value, "item"):
        return encode(value.item(), keep)
    if keep is None:
        raise NotPlain(f"a {kind.__name__} is no plain data")
    return keep(value)


def decode(content: Any, reference: Callable[[Any], Any] | None = None) -> Any:
    """The value of what :func:`encode` made; every part of it has exactly a built-in type.

    Args:
        reference: makes something of the number and kind of an object that stayed where it was.

    Raises:
        ValueError, TypeError, RecursionError: the content is not what :func:`encode` makes.
    """
    if content is None or isinstance(content, (bool, int, float, str)):
        return content
    if not isinstance(content, list) or not content or not isinstance(content[0], str):
        raise ValueError("neither a plain value nor a tag")
    tag, *parts = content
    if tag in _MAKE_SEQUENCE:
        return _MAKE_SEQUENCE[tag]([decode(item, reference) for item in parts[0]])
    if tag == "d":
        return {decode(key, reference): decode(item, reference) for key, item in parts[0]}
    if tag in _MAKE_SCALAR:
        return _MAKE_SCALAR[tag](*parts)
    if tag == "h" and reference is not None:
        return reference(parts)
    raise ValueError(f"the tag {tag!r:.20} is unknown here")


def _fraction(above: Any, below: Any) -> Any:
    from fractions import Fraction

    return Fraction(decode(above), decode(below))


def _decimal(text: str) -> Any:
    from decimal import Decimal

    return Decimal(text)


_MAKE_SEQUENCE: dict[str, Callable[[list[Any]], Any]] = {
    "l": list,
    "t": tuple,
    "s": set,
    "z": frozenset,
    "r": lambda parts: range(*parts),
}
_MAKE_SCALAR: dict[str, Callable[..., Any]] = {
    "i": lambda digits: int(digits, 16),
    "f": float,
    "c": lambda real, imaginary: complex(decode(real), decode(imaginary)),
    "b": bytes.fromhex,
    "a": bytearray.fromhex,
    "q": _fraction,
    "D": _decimal,
}
