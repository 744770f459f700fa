"""stages/verify/code/compare.py: equal as contest judges see it, and not more."""

from __future__ import annotations

import math
from typing import Any

import pytest

from bcpg_cluster.stages.verify.code.compare import same_output, same_value
from bcpg_cluster.stages.verify.code.inside.plain_data import encode


@pytest.mark.parametrize(
    ("printed", "wanted", "same"),
    [
        ("3\n", "3", True),
        (" 3 \n\n", "3\n", True),
        ("3\t4  \r\n", "3 4", True),
        ("3\n4", "3 4", True),  # tokens
        ("3 4", "34", False),
        ("3", "3\n3", False),
        ("", "", True),
        ("", "0", False),
        ("Yes", "YES", False),
        ("3.0 x", "3.00 x", True),
        ("1e1", "10", True),
        ("3", "4", False),
        ("3.3333333333", "3.333333333333", True),
        ("3.34", "3.333333333333", False),
        ("0.1", "0.10000000001", True),
        ("1.000002", "1.0", False),
        ("1.0000009", "1.0", True),
        ("0.0000009", "0.0", True),  # absolute
        ("1000000.9", "1000000.0", True),  # relative
        ("1000002.0", "1000000.0", False),
        ("100000001", "100000000", False),  # integers are exact, however large
        ("100000001.0", "100000000", False),
        ("2.9999999", "3", True),
        ("-0", "0", True),
        ("-0.0", "0.0", True),
        ("+3", "3", True),
        ("1_0", "10", False),
        ("0x10", "16", False),
        ("nan", "NaN", False),
        ("nan", "nan", True),
        ("inf", "1.0", False),
        ("Infinity", "1e308", False),
        ("1e999999", "1e999998", False),
        ("1.5e300000", "1.5e300000", True),
        ("9" * 5000, "9" * 5000, True),
        ("9" * 5000, "9" * 4999 + "8", False),
        ("٣", "3", False),
        ("1.0.0", "1.0", False),
    ],
)
def test_outputs(printed: str, wanted: str, same: bool):
    assert same_output(printed, wanted) is same


def test_the_tolerance_is_an_option():
    assert same_output("3.14", "3.14159", 1e-2) and not same_output("3.14", "3.14159", 1e-4)
    assert not same_output("3.3333333333", "3.33333333333", 0)


@pytest.mark.parametrize(
    ("returned", "wanted", "same"),
    [
        (3, 3, True),
        (3.0, 3, True),
        (3, 3.0, True),
        (3.0000001, 3, True),
        (4, 3, False),
        (10**18 + 1, 10**18, False),
        (float(10**18), 10**18, True),
        ([1 / 3, 2 / 3], [0.333333333333, 0.666666666667], True),
        ([1 / 3], [0.3334], False),
        ([1, 2], [1, 2, 3], False),
        ((1, (2,)), [1, [2]], True),
        ({"a": (0.1 + 0.2,)}, {"a": [0.3]}, True),
        ({1: "x"}, {"1": "x"}, True),
        ({2: "x", None: 1}, {"2": "x", "null": 1}, True),
        ({"a": 1}, {"a": 1, "b": 2}, False),
        ({1}, [1], False),
        (b"a", "a", False),
        ("3", 3, False),
        ("a", "A", False),
        (True, True, True),
        (1, True, True),  # as Python has it
        (None, None, True),
        (None, 0, False),
        (math.nan, math.nan, True),
        (math.nan, 7, False),
        (math.inf, math.inf, True),
        (math.inf, 1e308, False),
        ([], None, False),
        (None, [], False),
        (1j, 1, False),
    ],
)
def test_values(returned: Any, wanted: Any, same: bool):
    assert same_value(encode(returned), wanted) is same


@pytest.mark.parametrize(
    "sent", [[], ["l"], ["d", [1]], ["h", 0], ["i", "x"], {"a": 1}, [[1]], ["d", [[["l", []], 1]]]]
)
def test_nonsense_is_not_equal(sent: Any):
    for wanted in ([1], {"a": 1}, 1, "x"):
        try:
            assert not same_value(sent, wanted)
        except (ValueError, TypeError, IndexError, KeyError):
            continue
