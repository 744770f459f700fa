"""TOPR, GRPO and NFT: objectives with a ratio to the reference. Values worked by hand, branches by sign, overflow."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from bcpg_cluster.stages.train.objective import Grpo, Nft, Topr
from bcpg_cluster.stages.train.objectives import LossBatch, objective_loss
from tests.unit.stages.train.objectives.loss_cases import Case, row


def pulls(batch: LossBatch, options: Any) -> list[float]:
    """-d loss / d lp_j of a single row: what every token is pushed with in the end."""
    (gradient,) = torch.autograd.grad(objective_loss(batch, options).loss.sum(), batch.logprobs)
    found: Tensor = -gradient[0]
    return found.tolist()


# TOPR


def test_topr_at_the_reference_is_reinforce() -> None:
    case = Case().at_reference()
    for options, weights in (
        (Topr(), 2 * case.reward - 1),
        (Topr(reward="group_centered"), case.reward - case.group_mean),
        (Topr(ratio="length_normalised"), 2 * case.reward - 1),
    ):
        torch.testing.assert_close(case.gradient(options, 1.0), case.reinforce(weights[:, None]), rtol=0, atol=1e-15)


def test_topr_hand_worked_taper() -> None:
    """Delta = log(1/4) over 2 tokens: rho = 1/4, and 1/2 per token."""
    logprobs, reference = [-1.0 - math.log(2), -2.0 - math.log(2)], [-1.0, -2.0]
    wrong = row(logprobs, reference, reward=0.0)
    losses = objective_loss(wrong, Topr())
    assert losses.loss.item() == pytest.approx(0.25 * (-3 - 2 * math.log(2)) / 2)
    assert pulls(wrong, Topr()) == pytest.approx([-0.125, -0.125])
    assert losses.clipped is not None and losses.clipped.tolist() == [[True, True]]
    assert losses.push.tolist() == [[-1.0, -1.0]]  # before the taper
    assert pulls(wrong, Topr(ratio="length_normalised")) == pytest.approx([-0.25, -0.25])
    assert pulls(wrong, Topr(reward="group_centered")) == pytest.approx([-0.0625, -0.0625])
    right = row(logprobs, reference, reward=1.0)
    assert pulls(right, Topr()) == pytest.approx([0.5, 0.5])  # what pushes up is not tapered
    away = row([-0.5, -1.0], reference, reward=0.0)
    assert pulls(away, Topr()) == pytest.approx([-0.5, -0.5])  # rho above 1 counts as 1


def test_topr_taper_is_without_gradient() -> None:
    """With a gradient through rho, the pull would have a term R * rho * sum_j lp beside it."""
    case = Case()
    taper = (case.logprobs(case.logits) - case.reference)[:, :5].where(case.mask, 0).sum(1).exp().clamp(max=1)
    weights = torch.where(case.reward > 0, 1.0, -taper)
    assert (taper[1:] < 1).any()
    torch.testing.assert_close(case.gradient(Topr(), 1.0), case.reinforce(weights[:, None]), rtol=0, atol=1e-15)


def test_topr_taper_follows_the_flipped_sign() -> None:
    """beta = -0.5 on the second token of a wrong response: it is pushed up, and no taper acts on it."""
    wrong = row([-4.0, -2.0, -2.0], [-1.0, -2.0, -2.0], reward=0.0, weights=[1.0, -0.5, 0.0])
    assert pulls(wrong, Topr()) == pytest.approx([-math.exp(-3) / 3, 0.5 / 3, 0.0])
    clipped = objective_loss(wrong, Topr()).clipped
    assert clipped is not None and clipped.tolist() == [[True, False, False]]


def test_topr_ratio_cannot_overflow() -> None:
    for logprob, pull in ((-1.0, -1.0), (-2001.0, 0.0)):
        wrong = row([logprob], [-1001.0], reward=0.0)
        assert pulls(wrong, Topr()) == [pull]


# GRPO


def test_grpo_at_the_reference_is_reinforce_over_std() -> None:
    case = Case().at_reference()
    advantage = (case.reward - case.group_mean)[:, None]
    scaled = advantage / (math.sqrt(0.25 * 0.75) + 1e-6)
    torch.testing.assert_close(case.gradient(Grpo(), 1.0), case.reinforce(scaled), rtol=0, atol=1e-15)
    undivided = case.gradient(Grpo(divide_by_std=False, kl_weight=0.5), 1.0)  # k3 is flat at the reference
    torch.testing.assert_close(undivided, case.reinforce(advantage), rtol=0, atol=1e-15)


def test_grpo_std_is_that_of_the_population() -> None:
    """4 of 8 right: std 0.5, so A = 1 (the sample's would be 0.9354)."""
    right = row([-1.0], [-1.0], reward=1.0, group_mean=0.5)
    assert objective_loss(right, Grpo()).push.item() == pytest.approx(1.0, abs=1e-5)


@pytest.mark.parametrize(
    ("ratio", "reward", "beta", "pull", "value"),
    [
        (1.1, 1.0, 1.0, 0.55, 0.55),  # inside: rho * A
        (1.5, 1.0, 1.0, 0.0, 0.65),  # a right token beyond 1 + eps_high = 1.3: the constant 1.3 * A
        (0.5, 1.0, 1.0, 0.25, 0.25),  # a right token below is never held back
        (0.5, 0.0, 1.0, 0.0, -0.4),  # a wrong token below 1 - eps_low = 0.8: the constant 0.8 * A
        (1.5, 0.0, 1.0, -0.75, -0.75),
        (1.5, 0.0, -0.5, 0.0, 0.325),  # a mined token, beta * A = 0.25 > 0: held at 1.3, as a right one
        (0.5, 0.0, -0.5, 0.125, 0.125),  # and not at 0.8
        (0.5, 0.0, 0.0, 0.0, 0.0),
    ],
)
def test_grpo_clip_by_sign(ratio: float, reward: float, beta: float, pull: float, value: float) -> None:
    options = Grpo(epsilon_low=0.2, epsilon_high=0.3, divide_by_std=False)
    batch = row([-1.0 + math.log(ratio)], [-1.0], reward=reward, weights=[beta])  # A = +-0.5
    assert pulls(batch, options) == pytest.approx([pull])
    losses = objective_loss(batch, options)
    assert losses.loss.item() == pytest.approx(-value)
    assert losses.push.item() == pytest.approx((reward - 0.5) * beta)
    assert losses.clipped is not None
    assert losses.clipped.item() == (pull == 0 and beta != 0)


def test_grpo_kl_is_k3() -> None:
    """lp - lp_ref = -log 2: exp(log 2) - log 2 - 1; log 3: exp(-log 3) + log 3 - 1."""
    batch = row([-1.0 - math.log(2), -1.0 + math.log(3)], [-1.0, -1.0], reward=1.0)
    losses = objective_loss(batch, Grpo(kl_weight=0.4))
    assert losses.parts["kl"].item() == pytest.approx(0.4 * (1 - math.log(2) + math.log(3) - 2 / 3) / 2)


def test_grpo_clipped_tokens_may_overflow() -> None:
    far = row([-1.0, -1.0], [-2001.0, -1.0], reward=1.0)
    assert pulls(far, Grpo(divide_by_std=False)) == [0.0, 0.25]


# NFT


@pytest.mark.parametrize(
    ("prompt_weight", "weights"),
    [("one_minus_mean", 1.0), ("odds", 1 / 0.25), ("uniform", 1 / 0.75)],
)
def test_nft_at_the_reference_is_reinforce_by_prompt(prompt_weight: Any, weights: float) -> None:
    """A_i times 1, 1 / rbar and 1 / (1 - rbar): GRPO's and Dr. GRPO's direction on every prompt."""
    case = Case().at_reference()
    wanted = case.reinforce(weights * (case.reward - case.group_mean)[:, None])
    torch.testing.assert_close(case.gradient(Nft(prompt_weight=prompt_weight)), wanted, rtol=0, atol=1e-15)
    grpo = case.gradient(Grpo(), 1.0)  # A / std, std = sqrt(rbar * (1 - rbar)) up to its 1e-6
    torch.testing.assert_close(wanted, grpo * weights * math.sqrt(0.25 * 0.75), rtol=1e-5, atol=1e-12)


def test_nft_hand_worked_values() -> None:
    """rbar = 1/2, so z = 2 - R. R = 1/2: z = 1.5; R = 1.5: z = 0.5, floored at 1."""
    right = row([-1.0 + math.log(1.5)], [-1.0], reward=1.0)
    uniform = Nft(prompt_weight="uniform")
    assert objective_loss(right, uniform).loss.item() == pytest.approx(-math.log(1.5))
    assert pulls(right, uniform) == pytest.approx([1.0])
    below = row([-1.0 - math.log(2)], [-1.0], reward=0.0)
    assert objective_loss(below, uniform).loss.item() == pytest.approx(-math.log(1.5))
    assert pulls(below, uniform) == pytest.approx([-0.5 / 1.5])
    above = row([-1.0 + math.log(1.5)], [-1.0], reward=0.0)
    assert objective_loss(above, uniform).loss.item() == pytest.approx(0.0)  # log of the floor
    assert pulls(above, uniform) == pytest.approx([-1.5])  # but the gradient of z goes on
    assert objective_loss(above, uniform).push.item() == pytest.approx(-1.5)
    low_floor = Nft(prompt_weight="uniform", epsilon=0.1)
    assert pulls(above, low_floor) == pytest.approx([-1.5 / 0.5])


def test_nft_is_finite_where_almost_all_are_right() -> None:
    """31 of 32 right; a wrong response that has become far likelier, a right one whose ratio overflows."""
    wrong = row([-1.0], [-1.0], reward=0.0, group_mean=31 / 32)
    assert objective_loss(wrong, Nft()).loss.item() == 0.0
    assert pulls(wrong, Nft()) == pytest.approx([-31 / 32])
    grown = row([-0.5], [-50.0], reward=0.0, group_mean=31 / 32)  # z = -1e23: its value must not cancel to log 0
    assert objective_loss(grown, Nft()).loss.item() == 0.0
    assert math.isfinite(pulls(grown, Nft())[0])
    far = row([-1.0], [-2001.0], reward=1.0, group_mean=31 / 32)
    assert pulls(far, Nft()) == pytest.approx([1 / 32])
