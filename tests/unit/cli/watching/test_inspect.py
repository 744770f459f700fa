"""cli inspect: which rows are shown, and their rivals. (What it shows of plain samples is in test_cli.py.)"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bcpg_cluster.config.load import change_config
from bcpg_cluster.records import SampleId
from bcpg_cluster.store.rows import Rival, WeightedRow
from bcpg_cluster_cli.watching.inspect import choose_rows, run_inspect


def row(prompt: str, sample: int, rival: tuple[str, int] | None = None, mined: bool = False) -> WeightedRow:
    other = None if rival is None else Rival(SampleId(1, *rival), (4,))
    return WeightedRow(SampleId(1, prompt, sample), (1,), (2, 3), (1.0, 1.0), (mined, False), 0.5, 1.0, 0.5, 2, other)


def test_mined_rows_come_first_even_when_their_weight_is_one():
    rows = [row("a", 0), row("b", 1, mined=True), row("a", 1), row("a", 2, mined=True)]
    assert choose_rows(rows, None, None) == [rows[3], rows[1], rows[0], rows[2]]
    assert choose_rows(rows, "a", None) == [rows[3], rows[0], rows[2]]
    assert choose_rows(rows, "a", 1) == [rows[2]]
    assert choose_rows(rows, "c", None) == []


def test_both_sides_of_a_pair_find_it_and_a_mismatched_response_does_not():
    pairs = [row("a", 0, ("a", 3)), row("a", 1, ("a", 2)), row("a", 0, ("a", 2))]
    assert choose_rows(pairs, "a", 2) == [pairs[2], pairs[1]]
    assert choose_rows(pairs, "a", 0) == [pairs[2], pairs[0]]
    mismatched = [row("a", 0, ("b", 1)), row("b", 1, ("a", 0))]
    assert choose_rows(mismatched, "b", 1) == [mismatched[1]]


@pytest.mark.parametrize(
    ("name", "words"), [("dpo", "(the wrong response of this pair)"), ("kto", "(another prompt's response")]
)
def test_rivals_are_shown(
    tmp_path: Path, fakes_content: Callable[[], dict[str, Any]], run_rounds: Callable[..., Any], name: str, words: str,
    capsys: pytest.CaptureFixture[str],
):  # fmt: skip
    overrides = [f"objective={{name: {name}}}", "evaluate.num_prompts=2", "prompts.per_round=4"]
    run_rounds(tmp_path / "run", change_config(fakes_content(), overrides, "test"), 1)
    run_inspect(tmp_path / "run", 1, None, None, 1)
    shown = " ".join(capsys.readouterr().out.split())
    assert "rival: a" in shown
    assert words in shown
    assert ("prm truth mined weight" in shown.replace("┃ ", "")) is (name == "kto")  # of a rival, no weights


def test_the_first_example_shows_most():
    """Mined steps beside others first, then those of a wrong response, then those that fit a screen."""

    def of(sample: int, mined: tuple[bool, ...], reward: float) -> WeightedRow:
        tokens, weights = (1,) * len(mined), (1.0,) * len(mined)
        return WeightedRow(SampleId(1, "a", sample), (1,), tokens, weights, mined, 0.5, reward, 0.5, 2)

    all_mined, mixed_and_long = of(0, (True, True), 0.0), of(1, (True,) + (False,) * 700, 0.0)
    right, wrong, mixed = of(2, (False,) * 2, 1.0), of(3, (False,) * 2, 0.0), of(4, (True, False), 0.0)
    rows = [right, all_mined, wrong, mixed_and_long, mixed]
    assert choose_rows(rows, None, None) == [mixed, mixed_and_long, all_mined, wrong, right]
