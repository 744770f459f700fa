"""digest.py: what is not finite is found wherever it stands."""

from __future__ import annotations

import pytest
import torch

from bcpg_cluster.stages.push.digest import is_finite


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.float8_e5m2])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_one_value_anywhere(dtype: torch.dtype, value: float) -> None:
    for size in (1, 7, 67):
        good = torch.linspace(-3, 3, size).to(dtype)
        assert is_finite(good)
        for place in range(size):
            bad = good.float().clone()
            bad[place] = value
            assert not is_finite(bad.to(dtype)), (size, place)


def test_what_has_no_such_values() -> None:
    assert is_finite(torch.empty(0))
    assert is_finite(torch.arange(5))
    assert is_finite(torch.tensor([torch.finfo(torch.float32).max, -torch.finfo(torch.float32).max]))
    assert not is_finite(torch.tensor([[1.0, 2.0], [float("nan"), 4.0]]).T)
