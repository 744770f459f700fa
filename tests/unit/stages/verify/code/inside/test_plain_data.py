"""stages/verify/code/inside/plain_data.py: values go over the pipe and come back as what they are, of built-in types."""

from __future__ import annotations

import json
import math
from collections import Counter, OrderedDict, namedtuple
from decimal import Decimal
from enum import IntEnum
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bcpg_cluster.stages.verify.code.inside.plain_data import NotPlain, decode, encode

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text()
    | st.binary()
    | st.fractions()
    | st.complex_numbers(allow_nan=False)
)
HASHABLE = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3).map(tuple) | st.frozensets(inner, max_size=3), max_leaves=5
)
VALUES = st.recursive(
    HASHABLE,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(HASHABLE, inner, max_size=4) | st.sets(HASHABLE, max_size=4)
    ),
    max_leaves=20,
)


def sent(value: Any) -> Any:
    return decode(json.loads(json.dumps(encode(value))))


@given(VALUES)
def test_there_and_back(value: Any):
    back = sent(value)
    assert back == value and repr(type(back)) == repr(type(value))


def test_numbers_that_are_not_equal_to_themselves_and_large_ones():
    assert math.isnan(sent(math.nan)) and sent(-math.inf) == -math.inf and math.copysign(1, sent(-0.0)) == -1
    assert sent(10**5000) == 10**5000
    assert sent(Decimal("1.10")) == Decimal("1.10") and sent(range(3, 9, 2)) == range(3, 9, 2)
    assert sent("\ud800") == "\ud800"


def test_a_subclass_is_sent_as_what_it_extends():
    class Lies(int):
        def __repr__(self) -> str:
            return "7"

        def __eq__(self, other: object) -> bool:
            return True

        __hash__ = int.__hash__

    class Colour(IntEnum):
        RED = 3

    point = namedtuple("point", "x y")
    for value, plain in (
        (Lies(1), 1),
        (Colour.RED, 3),
        (point(1, 2), (1, 2)),
        (Counter("aab"), {"a": 2, "b": 1}),
        (OrderedDict(a=1), {"a": 1}),
    ):
        back = sent(value)
        assert back == plain and type(back) is type(plain)


def test_what_is_not_plain_is_an_error_or_a_reference():
    with pytest.raises(NotPlain, match="object"):
        encode([object()])
    assert encode([print], lambda value: ["h", 5]) == ["l", [["h", 5]]]
    assert decode(["l", [["h", 5]]], lambda parts: parts[0]) == [5]
    loop: list[Any] = []
    loop.append(loop)
    with pytest.raises(RecursionError):
        encode(loop)


@pytest.mark.parametrize(
    "content", [{}, [], [1], ["x", 1], ["h", 1], ["l"], ["i", "zz"], ["s", [["l", []]]], ["q", 1, 0], ["b", "x"]]
)
def test_nonsense_is_an_error(content: Any):
    with pytest.raises((ValueError, TypeError, LookupError, ArithmeticError)):
        decode(content)


def test_fractions_are_exact():
    assert sent({Fraction(1, 3): [Fraction(10**40, 7)]}) == {Fraction(1, 3): [Fraction(10**40, 7)]}
