"""RFT, DPO, KTO, AsymRE and W-REINFORCE: values and gradients worked by hand."""

from __future__ import annotations

import math

import pytest
import torch

from bcpg_cluster.stages.train.objective import AsymRe, Bcpg, Dpo, Kto, Rft, WeightedReinforce
from bcpg_cluster.stages.train.objectives import LossBatch, objective_loss
from tests.unit.stages.train.objectives.loss_cases import Case, row


def pair(own: list[float], rival: list[float], drift: tuple[float, float]) -> LossBatch:
    """One pair with the given Deltas, each spread evenly over the tokens; both sides carry a gradient."""
    return row(
        own,
        [value - drift[0] / len(own) for value in own],
        reward=1.0,
        rival_logprobs=torch.tensor([rival], dtype=torch.float64, requires_grad=True),
        rival_reference=torch.tensor([[value - drift[1] / len(rival) for value in rival]], dtype=torch.float64),
        rival_mask=torch.ones(1, len(rival), dtype=torch.bool),
    )


def test_rft_is_the_likelihood_of_its_rows() -> None:
    batch = row([-1.0, -2.0], [-9.0, 5.0], reward=0.0, weights=[-1.0, 0.0])
    assert objective_loss(batch, Rft()).loss.item() == 3.0
    assert objective_loss(batch, Rft(length="sequence", on="wrong")).loss.item() == 1.5
    assert objective_loss(batch, Rft()).push.tolist() == [[1.0, 1.0]]


def test_dpo_starts_at_log_2_whatever_the_lengths() -> None:
    start = pair([-1.0, -2.0, -3.0], [-0.5], (0.0, 0.0))
    assert objective_loss(start, Dpo()).loss.item() == pytest.approx(math.log(2))
    # Equal drift on both sides is no preference either.
    assert objective_loss(pair([-1.0], [-2.0], (3.0, 3.0)), Dpo()).loss.item() == pytest.approx(math.log(2))


def test_dpo_hand_worked_value_and_gradient() -> None:
    """margin = 0.5 * (1.5 - (-0.5)) = 1; every token of y+ is pulled with beta * sigmoid(-1), of y- with its negative."""
    batch = pair([-1.0, -2.0], [-1.0, -1.0, -1.0], (1.5, -0.5))
    losses = objective_loss(batch, Dpo(beta=0.5))
    assert losses.loss.item() == pytest.approx(math.log(1 + math.exp(-1)))
    assert batch.rival_logprobs is not None
    own, rival = torch.autograd.grad(losses.loss.sum(), [batch.logprobs, batch.rival_logprobs])
    pull = 0.5 / (1 + math.e)
    assert own[0].tolist() == pytest.approx([-pull] * 2)
    assert rival[0].tolist() == pytest.approx([pull] * 3)
    assert losses.push[0].tolist() == pytest.approx([pull] * 2)


def test_dpo_nll_is_per_token_of_the_right_response() -> None:
    batch = pair([-1.0, -2.0], [-7.0], (0.0, 0.0))
    losses = objective_loss(batch, Dpo(nll_weight=0.4))
    assert losses.parts["nll"].item() == pytest.approx(0.4 * 1.5)
    assert losses.loss.item() == pytest.approx(math.log(2) + 0.6)


def test_dpo_needs_rivals() -> None:
    with pytest.raises(ValueError, match="rival"):
        objective_loss(row([-1.0], [-1.0], reward=1.0), Dpo())


@pytest.mark.parametrize(
    ("reward", "step_drift", "argument", "weight"),
    [
        (1.0, 0.5, 0.2 * (1.5 - 0.5), 2.0),  # right: beta * (Delta - z0)
        (0.0, 0.5, 0.2 * (0.5 - 1.5), 3.0),  # wrong: beta * (z0 - Delta)
        (1.0, -4.0, 0.2 * 1.5, 2.0),  # z0 is not below 0
    ],
)
def test_kto_hand_worked(reward: float, step_drift: float, argument: float, weight: float) -> None:
    batch = row([-1.0, -1.0], [-2.0, -1.5], reward=reward, step_drift=step_drift)  # Delta = 1.5
    losses = objective_loss(batch, Kto(beta=0.2, right_weight=2.0, wrong_weight=3.0))
    value = 1 / (1 + math.exp(-argument))
    assert losses.loss.item() == pytest.approx(weight * (1 - value))
    (gradient,) = torch.autograd.grad(losses.loss.sum(), batch.logprobs)
    pull = (1 if reward else -1) * weight * 0.2 * value * (1 - value)
    assert (-gradient)[0].tolist() == pytest.approx([pull, pull])
    assert losses.push[0].tolist() == pytest.approx([pull, pull])


def test_asymre_hand_worked() -> None:
    """A = 0 - 0.5 + 0.1 = -0.4; -(-0.4) * (1 * -1 + 0.5 * -2) / 2."""
    batch = row([-1.0, -2.0], [-1.0, -1.0], reward=0.0, weights=[1.0, 0.5])
    losses = objective_loss(batch, AsymRe(offset=-0.1))
    assert losses.loss.item() == pytest.approx(-0.4)
    assert losses.push[0].tolist() == pytest.approx([-0.4, -0.2])


@pytest.mark.parametrize(("reward", "gain"), [(1.0, 0.1 * 1.5), (0.0, -1.5)])
def test_weighted_reinforce_hand_worked(reward: float, gain: float) -> None:
    """Delta = -1: an anchor of 0.2 / 2 * 1 / 2 tokens."""
    losses = objective_loss(row([-1.0, -2.0], [-1.0, -1.0], reward=reward), WeightedReinforce(tau=0.2))
    assert losses.parts["gain"].item() == pytest.approx(gain)
    assert losses.parts["anchor"].item() == pytest.approx(0.05)
    assert losses.push[0].tolist() == pytest.approx([0.1, 0.1] if reward else [-1.0, -1.0])


def test_weighted_reinforce_has_the_anchor_of_bcpg() -> None:
    batch = Case().batch(Case().logits)
    found, wanted = (
        objective_loss(batch, options).parts["anchor"] for options in (WeightedReinforce(tau=0.3), Bcpg(tau=0.3))
    )
    assert torch.equal(found, wanted)
