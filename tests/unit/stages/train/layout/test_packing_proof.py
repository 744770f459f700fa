"""layout/packing_proof.py: a score that depends on its neighbours is refused. Real models: tests/contract/test_trainers.py."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from bcpg_cluster.errors import ConfigError
from bcpg_cluster.stages.train.layout.cutting import Packing
from bcpg_cluster.stages.train.layout.packing_proof import prove_packing
from bcpg_cluster.stages.train.layout.row_layout import TokenPair

ROWS: list[TokenPair] = [((1, 2), (3, 4, 5)), ((6,), (7, 8)), ((9,), (9,))]


class Scored:
    """Every token's log-prob is −1; packed, those of the third sequence are ``off`` nats higher."""

    def __init__(self, off: float) -> None:
        self.off, self.asked = off, list[tuple[list[TokenPair], Packing]]()

    def __call__(self, sequences: Sequence[TokenPair], packing: Packing) -> list[tuple[float, ...]]:
        self.asked.append((list(sequences), packing))
        moved = self.off if packing == "packed" else 0.0
        return [tuple([-1.0 + moved * (index == 2)] * len(tokens)) for index, (_, tokens) in enumerate(sequences)]


def test_the_first_row_is_asked_behind_itself_and_another() -> None:
    score = Scored(0.0)
    prove_packing(score, ROWS, "float32")
    trial = [((1,), (2, 3, 4, 5)), ((6,), (7, 8)), ((1,), (2, 3, 4, 5))]
    assert score.asked == [(trial, "packed"), (trial, "padded")]


def test_one_row_is_enough_and_long_ones_are_cut() -> None:
    score = Scored(0.0)
    prove_packing(score, [((0,) * 40, (1,) * 40)], "float32")
    assert [len(prompt + tokens) for prompt, tokens in score.asked[0][0]] == [48, 48, 48]
    prove_packing(score, [], "float32")
    assert len(score.asked) == 2


@pytest.mark.parametrize(
    ("off", "dtype", "is_proof"),
    [(9e-4, "float32", True), (2e-3, "float32", False), (0.04, "bfloat16", True), (0.06, "bfloat16", False)]
    + [(float("nan"), dtype, False) for dtype in ("float32", "bfloat16")],
)
def test_what_is_more_than_rounding_is_refused(off: float, dtype: str, is_proof: bool) -> None:
    if is_proof:
        prove_packing(Scored(off), ROWS, dtype)
        return
    with pytest.raises(ConfigError) as refused:
        prove_packing(Scored(off), ROWS, dtype)
    assert f"moves by {off:.2g} nats" in str(refused.value)
    assert "train.packing: padded" in refused.value.remedy
