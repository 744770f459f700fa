"""watch.view.as_json: JSON that any browser reads."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from bcpg_cluster.watch.view.as_json import plain, to_json
from bcpg_cluster.watch.view.overview.records import Interval


def test_numbers_that_are_not_finite_become_null():
    content = {"a": (1.0, math.nan, math.inf), "b": Interval(0.5, None, -math.inf, 3), 4: np.float32(0.5)}
    expected = {
        "a": [1.0, None, None],
        "b": {"value": 0.5, "low": None, "high": None, "num": 3},
        "4": 0.5,
    }
    assert json.loads(to_json(content)) == plain(content) == expected


def test_text_is_utf8_whatever_it_is():
    text = "\u2028 \ud83d é </script>"  # a lone half of a pair, as byte-level tokens give it
    assert json.loads(to_json([text])) == ["\u2028 ? é </script>"]


def test_what_is_no_document_is_refused():
    with pytest.raises(TypeError, match="set"):
        to_json({"a": {1}})
