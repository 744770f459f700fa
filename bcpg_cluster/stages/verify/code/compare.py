"""When what a program printed or returned is what was wanted, as contest judges decide it."""

from __future__ import annotations

import math
import re
from decimal import Context, Decimal, localcontext
from typing import Any

from bcpg_cluster.stages.verify.code.inside.plain_data import decode

DEFAULT_TOLERANCE = 1e-6  # absolute or relative, whichever is kinder

_NUMBER = re.compile(r"[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]{1,6})?")
_INTEGER = re.compile(r"[+-]?[0-9]+")
_MAX_NUMBER_CHARACTERS = 400
_QUIET = Context(prec=60, Emax=999_999_999, Emin=-999_999_999, traps=[])


def same_output(printed: str, wanted: str, tolerance: float = DEFAULT_TOLERANCE) -> bool:
    """Whether two outputs have the same tokens, whatever white space stands between them.

    Two tokens are the same as text (case counts), or as numbers: exactly where an integer is wanted and one is printed, else
    within the tolerance (see :func:`near`).
    """
    ours, theirs = printed.split(), wanted.split()
    return len(ours) == len(theirs) and all(
        a == b or _same_number(a, b, tolerance) for a, b in zip(ours, theirs, strict=True)
    )


def _same_number(ours: str, theirs: str, tolerance: float) -> bool:
    if max(len(ours), len(theirs)) > _MAX_NUMBER_CHARACTERS:
        return False
    if not _NUMBER.fullmatch(ours) or not _NUMBER.fullmatch(theirs):
        return False
    with localcontext(_QUIET):
        return near(Decimal(ours), Decimal(theirs), tolerance, is_integer_wanted=bool(_INTEGER.fullmatch(theirs)))


def near(ours: Any, theirs: Any, tolerance: float, *, is_integer_wanted: bool) -> bool:
    """Whether two numbers agree: absolutely or relatively within the tolerance.

    Where an integer is wanted, another integer is never near it, and what is none must be near it absolutely: a relative
    tolerance would make one large integer another.
    """
    if ours == theirs:
        return True
    if is_integer_wanted and ours == ours.__floor__():
        return False
    kind = type(ours)
    margin = kind(repr(tolerance)) if kind is Decimal else tolerance
    size = 1 if is_integer_wanted else max(abs(theirs), 1)
    return bool(abs(ours - theirs) <= margin * size)


def same_value(sent: Any, wanted: Any, tolerance: float = DEFAULT_TOLERANCE) -> bool:
    """Whether a value as ``plain_data.encode`` sent it is the wanted one, which was read from JSON.

    Tuples are lists and a dict's keys are texts, as in JSON; sets and bytes equal nothing. Floats agree within the tolerance,
    also inside of lists and dicts. NaN agrees with NaN.

    Raises:
        ValueError, TypeError, RecursionError: what was sent is no value.
    """
    if isinstance(wanted, list):
        is_sequence = isinstance(sent, list) and sent[0] in ("l", "t") and len(sent[1]) == len(wanted)
        return is_sequence and all(same_value(a, b, tolerance) for a, b in zip(sent[1], wanted, strict=True))
    if isinstance(wanted, dict):
        if not isinstance(sent, list) or sent[0] != "d" or len(sent[1]) != len(wanted):
            return False
        found = {_json_key(key): value for key, value in sent[1]}
        return found.keys() == wanted.keys() and all(same_value(found[k], wanted[k], tolerance) for k in wanted)
    if isinstance(sent, list) and sent[0] not in ("i", "f"):
        return False
    ours = decode(sent)
    if isinstance(wanted, float) or isinstance(ours, float):
        return _same_float(ours, wanted, tolerance)
    return bool(ours == wanted)


def _json_key(sent: Any) -> str:
    """What JSON makes of a key: a text."""
    key = decode(sent)
    if key is None or isinstance(key, bool):
        return {None: "null", True: "true", False: "false"}[key]
    if isinstance(key, float):
        return float.__repr__(key)
    if not isinstance(key, (str, int)):
        raise TypeError("no key of JSON")
    return str(key)


def _same_float(ours: Any, wanted: Any, tolerance: float) -> bool:
    if not isinstance(ours, (int, float)) or not isinstance(wanted, (int, float)):
        return False
    if ours == wanted:
        return True
    if isinstance(ours, float) and math.isnan(ours):
        return isinstance(wanted, float) and math.isnan(wanted)
    try:
        pair = float(ours), float(wanted)
    except OverflowError:
        return False
    if not all(math.isfinite(value) for value in pair):
        return False
    return near(*pair, tolerance, is_integer_wanted=isinstance(wanted, int))
