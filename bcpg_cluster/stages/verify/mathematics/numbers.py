"""Numbers as they are written, read exactly, and when two of them are the same."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

# Numbers written with a decimal point may be rounded: they agree to six decimals and to five or six significant digits.
MOST_APART = Fraction(5, 10**7)
MOST_APART_RELATIVE = Fraction(5, 10**6)

_MAX_CHARACTERS = 1000
_MAX_EXPONENT = 400
_UNSIGNED = r"(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+)(?:\.[0-9]*)?|\.[0-9]+"
_APART = re.compile(r"[0-9.,]\s+[0-9.]")
_NUMBER = re.compile(rf"(?P<sign>[+-]?)(?P<digits>{_UNSIGNED})")
_FRACTION = re.compile(r"(?P<sign>[+-]?)\\frac\{(?P<above>[+-]?[0-9,.]+)\}\{(?P<below>[+-]?[0-9,.]+)\}")
_SLASHED = re.compile(rf"(?P<above>[+-]?(?:{_UNSIGNED}))/(?P<below>[+-]?(?:{_UNSIGNED}))")
_MIXED = re.compile(r"(?P<sign>[+-]?)(?P<whole>[0-9]+)\\frac\{(?P<above>[0-9]+)\}\{(?P<below>[0-9]+)\}")
_SCIENTIFIC = re.compile(
    rf"(?P<sign>[+-]?)(?:(?P<digits>{_UNSIGNED})(?:\\times|\\cdot|\*))?10\^(?:\{{(?P<long>[+-]?[0-9]+)\}}|(?P<short>[0-9]))"
)


@dataclass(frozen=True, slots=True)
class Number:
    """A rational number; ``is_exact`` unless it was written with a decimal point, and so may be rounded."""

    value: Fraction
    is_exact: bool


def read_number(text: str) -> Number | None:
    r"""Read ``18``, ``1,234.5``, ``-.5``, ``1/3``, ``\frac{1}{3}``, ``2\frac{1}{3}``, ``3 \times 10^{8}``; ``None`` for others.

    A division by zero is ``None`` too.
    """
    if len(text) > _MAX_CHARACTERS or _APART.search(text):
        return None
    text = "".join(text.split())
    value = _read(text)
    return None if value is None else Number(value, "." not in text)


def is_same(ours: Number, theirs: Number) -> bool:
    """Exact numbers are the same when they are equal; where one may be rounded, when it is so close that it can be."""
    if ours.value == theirs.value or (ours.is_exact and theirs.is_exact):
        return ours.value == theirs.value
    return is_close(ours.value, theirs.value)


def is_close(ours: Fraction, theirs: Fraction) -> bool:
    """Whether one may be the other, rounded: close in decimals, and close for its size."""
    apart = abs(ours - theirs)
    return apart <= MOST_APART and apart <= MOST_APART_RELATIVE * max(abs(ours), abs(theirs))


def _read(text: str) -> Fraction | None:
    if match := _NUMBER.fullmatch(text):
        return _signed(match["sign"], _plain(match["digits"]))
    if match := _FRACTION.fullmatch(text):
        value = _ratio(match["above"], match["below"])
        return None if value is None else _signed(match["sign"], value)
    if match := _SLASHED.fullmatch(text):
        return _ratio(match["above"], match["below"])
    if match := _MIXED.fullmatch(text):
        part = _ratio(match["above"], match["below"])
        if part is None or part >= 1:
            return None
        return _signed(match["sign"], int(match["whole"]) + part)
    if match := _SCIENTIFIC.fullmatch(text):
        exponent = int(match["long"] or match["short"])
        if abs(exponent) > _MAX_EXPONENT:
            return None
        return _signed(match["sign"], _plain(match["digits"] or "1") * Fraction(10) ** exponent)
    return None


def _plain(digits: str) -> Fraction:
    return Fraction(digits.replace(",", ""))


def _signed(sign: str, value: Fraction) -> Fraction:
    return -value if sign == "-" else value


def _ratio(above: str, below: str) -> Fraction | None:
    for part in (above, below):
        if not _NUMBER.fullmatch(part):
            return None
    divisor = _plain(below)
    return None if divisor == 0 else _plain(above) / divisor
