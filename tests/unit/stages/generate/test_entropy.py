"""stages/generate/entropy.py: the entropy that is known from the likeliest tokens is a lower bound, and how far off it may be."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bcpg_cluster.stages.generate.entropy import known_entropy, position_entropies


def test_by_hand():
    assert known_entropy([math.log(0.5)] * 2) == pytest.approx(math.log(2))
    assert known_entropy([math.log(0.5)]) == pytest.approx(math.log(2))  # the rest counts as one token
    assert known_entropy([0.0]) == 0.0
    assert known_entropy([1e-9]) == 0.0  # a sum above 1 by rounding


@given(st.lists(st.floats(0.001, 1.0), min_size=2, max_size=12), st.integers(1, 12))
def test_it_is_a_lower_bound_that_is_off_by_the_rest_at_its_flattest(masses: list[float], k: int):
    total = sum(masses)
    exact = -sum(p * math.log(p) for p in (mass / total for mass in masses))
    likeliest = sorted((mass / total for mass in masses), reverse=True)[:k]
    known = known_entropy([math.log(p) for p in likeliest])
    rest, others = max(1.0 - sum(likeliest), 0.0), max(len(masses) - k, 1)
    assert known - 1e-9 <= exact <= known + rest * math.log(others) + 1e-9


def test_positions_of_vllm_name_the_drawn_token_first_and_perhaps_again():
    half, quarter = math.log(0.5), math.log(0.25)
    flat = SimpleNamespace(
        start_indices=[0, 3, 6],
        end_indices=[3, 6, 9],
        token_ids=[7, 7, 8, 9, 7, 8, 1, 2, 3],
        logprobs=[half, half, half, quarter, half, quarter, 0.0, -99.0, -99.0],
    )
    both = -0.5 * half - 2 * 0.25 * quarter
    assert position_entropies(flat, 2) == pytest.approx((math.log(2), both))
    assert position_entropies(flat, 3)[2] == pytest.approx(0.0, abs=1e-30)
