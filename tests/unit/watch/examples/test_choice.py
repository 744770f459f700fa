"""watch.examples.choice: which rows are shown, and in which order."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from bcpg_cluster.config.run import Config
from bcpg_cluster.records import Rollout, SampleId, Step, StopReason, Verdict, VerdictStatus
from bcpg_cluster.store.rows import Rival, WeightedRow
from bcpg_cluster.watch.examples.choice import Showing, choose_rows, mined_mass, rank
from bcpg_cluster.watch.examples.samples import RoundSamples

LN2 = 0.6931471805599453


def row(
    prompt: str,
    sample: int,
    rival: tuple[str, int] | None = None,
    mined: tuple[bool, ...] = (False, False),
    reward: float = 1.0,
) -> WeightedRow:
    other = None if rival is None else Rival(SampleId(1, *rival), (4,))
    weights = (1.0,) * len(mined)
    return WeightedRow(SampleId(1, prompt, sample), (1,), (2,) * len(mined), weights, mined, 0.5, reward, 0.5, 2, other)


def samples_of(rows: list[WeightedRow], **more: Any) -> RoundSamples:
    return RoundSamples(1, {}, more.get("rollouts", {}), {}, more.get("steps", {}), more.get("verdicts", {}), rows)


def test_mined_rows_come_first_even_when_their_weight_is_one(make_config: Callable[..., Config]):
    mined = (True, False)
    rows = [row("a", 0), row("b", 1, mined=mined), row("a", 1), row("a", 2, mined=mined)]
    samples, config = samples_of(rows), make_config()
    assert choose_rows(samples, config, None, None) == [rows[3], rows[1], rows[0], rows[2]]
    assert choose_rows(samples, config, "a", None) == [rows[3], rows[0], rows[2]]
    assert choose_rows(samples, config, "a", 1) == [rows[2]]
    assert choose_rows(samples, config, "c", None) == []


def test_both_sides_of_a_pair_find_it_and_a_mismatched_response_does_not(make_config: Callable[..., Config]):
    pairs = [row("a", 0, ("a", 3)), row("a", 1, ("a", 2)), row("a", 0, ("a", 2))]
    assert choose_rows(samples_of(pairs), make_config(), "a", 2) == [pairs[2], pairs[1]]
    assert choose_rows(samples_of(pairs), make_config(), "a", 0) == [pairs[2], pairs[0]]
    mismatched = [row("a", 0, ("b", 1)), row("b", 1, ("a", 0))]
    assert choose_rows(samples_of(mismatched), make_config(), "b", 1) == [mismatched[1]]


def test_what_shows_more_comes_first():
    """Mined steps beside others, of a wrong response, that fit a screen, with the truth behind them, of much gradient."""
    mined, long = (True, False), (True,) + (False,) * 700
    shows = {
        0: Showing(True, 1.0, 0.75),
        1: Showing(True, 1.0, 0.25),
        2: Showing(True, 0.5, 0.99),
        3: Showing(True, 1.0, 0.99),  # long
        4: Showing(False, 1.0, 1.0),
        5: Showing(),  # nothing is mined
        6: Showing(),  # right
    }
    rows = [row("a", n, mined=mined, reward=0.0) for n in range(3)] + [row("a", 3, mined=long, reward=0.0)]
    rows += [row("a", 4, mined=mined, reward=0.0), row("a", 5, reward=0.0), row("a", 6)]
    shuffled = rows[::-1]
    assert sorted(shuffled, key=rank(lambda of: shows[of.id.sample])) == rows


def test_the_truth_decides_between_two_samples_that_show_alike(make_config: Callable[..., Config]):
    """Three steps of a token each, the first mined: in sample 0 the truth calls it wrong, in sample 1 right."""
    config = make_config()
    rows = [row("a", n, mined=(True, False, False), reward=0.0) for n in range(2)]
    steps = {of.id: [Step(n, n + 1, f"{n}\n") for n in range(3)] for of in rows}

    def said(judge: str, labels: tuple[int, ...], id_: SampleId) -> list[Verdict]:
        return [Verdict(id_, n, judge, "1", VerdictStatus.JUDGED, label) for n, label in enumerate(labels)]

    verdicts = {judge: {of.id: said(judge, (1, 0, 0), of.id) for of in rows} for judge in config.voters}
    verdicts["truth"] = {of.id: said("truth", (of.id.sample, 0, 0), of.id) for of in rows}
    rollouts = {
        of.id: Rollout(of.id, (1,), of.token_ids, (-LN2,) * 3, ("x",) * 3, StopReason.STOP, 0, 1) for of in rows
    }
    samples = samples_of(rows, steps=steps, verdicts=verdicts, rollouts=rollouts)
    assert choose_rows(samples, config, None, None) == [rows[1], rows[0]]


def test_the_mined_share_of_gradient_mass():
    """Probabilities 1/2, 1/4 and 1: masses 1/2, 3/4 and 0, of which the first is mined."""
    of = row("a", 0, mined=(True, False, False), reward=0.0)

    def share(logprobs: tuple[float, ...]) -> float | None:
        rollout = Rollout(of.id, (1,), of.token_ids, logprobs, ("x",) * 3, StopReason.STOP, 0, 1)
        return mined_mass(of, samples_of([of], rollouts={of.id: rollout}))

    assert share((-LN2, -2 * LN2, 0.0)) == pytest.approx(0.5 / 1.25)
    assert share(()) is None  # unknown
    assert share((0.0, 0.0, 0.0)) is None
