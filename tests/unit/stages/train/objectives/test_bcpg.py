"""BCPG and BCPG-NSA against Eq. 6's oracles: hand-worked values, identities, where ascent comes to rest."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from bcpg_cluster.stages.train.objective import AsymRe, Bcpg
from bcpg_cluster.stages.train.objectives import objective_loss
from bcpg_cluster.stages.train.objectives.bcpg import baseline_advantage, bcpg, bcpg_token_weight_loss
from tests.unit.stages.train.objectives.loss_cases import Case, Loss, row

FORMS: list[Loss] = [bcpg, bcpg_token_weight_loss]
TAU = 0.3


def test_hand_worked_value() -> None:
    """Delta = -0.5 + 0.25 = -0.25 over 2 tokens."""
    batch = row([-1.5, -0.75], [-1.0, -1.0], reward=0.0, group_mean=0.4, weights=[1.0, 0.5])
    losses = bcpg(batch, Bcpg(tau=0.1))
    # gain: -0.4 * (-1.5 - 0.375) = 0.75, negated and halved; anchor: 0.05 * 0.0625 / 2
    assert losses.parts["gain"].item() == pytest.approx(-0.375)
    assert losses.parts["anchor"].item() == pytest.approx(0.0015625)
    assert losses.loss.item() == pytest.approx(-0.3734375)
    assert losses.push.tolist() == [[-0.4, -0.2]]
    # w = beta * A - tau * Delta = -0.375 and -0.175
    weighted = bcpg_token_weight_loss(batch, Bcpg(tau=0.1))
    assert weighted.loss.item() == pytest.approx(-(0.375 * 1.5 + 0.175 * 0.75) / 2)


def test_hand_worked_value_per_token() -> None:
    """tau_i = 0.1 / 2; not divided by the length: 0.6 * 1.5 + 0.025 * 1."""
    batch = row([-1.0, -0.5], [-1.5, -1.0], reward=1.0, group_mean=0.4)
    losses = bcpg(batch, Bcpg(tau=0.1, tau_scale="per_token", length="token"))
    assert losses.loss.item() == pytest.approx(0.925)


@pytest.mark.parametrize("beta", [1.0, 0.5, 0.0, -0.5])
@pytest.mark.parametrize("tau_scale", ["absolute", "per_token"])
@pytest.mark.parametrize("length", ["sequence", "token", "constant"])
@pytest.mark.parametrize("baseline", ["mean", "log_z"])
def test_token_weight_form_has_the_same_gradient(beta: float, tau_scale: Any, length: Any, baseline: Any) -> None:
    options = Bcpg(tau=TAU, tau_scale=tau_scale, length=length, constant_tokens=8, baseline=baseline)
    case = Case()
    difference = case.gradient(options, beta, bcpg) - case.gradient(options, beta, bcpg_token_weight_loss)
    assert difference.abs().max() < 1e-15


@pytest.mark.parametrize("form", FORMS)
def test_at_the_reference_it_is_group_reinforce(form: Loss) -> None:
    case = Case().at_reference()
    wanted = case.reinforce((case.reward - case.group_mean)[:, None])
    torch.testing.assert_close(case.gradient(Bcpg(tau=TAU), 1.0, form), wanted, rtol=0, atol=1e-15)


def test_square_is_of_the_sequence_not_of_tokens() -> None:
    """Guards against the variant that sums per-token squares (docs/method.md), which is another objective."""
    case = Case()
    logits = case.logits.clone().requires_grad_()
    logprobs = case.logprobs(logits)[:, :5]
    gain = ((case.reward - case.group_mean)[:, None] * logprobs * case.mask).sum(1)
    squares = ((logprobs - case.reference[:, :5]).square() * case.mask).sum(1)
    (-(gain - TAU / 2 * squares) / case.mask.sum(1)).sum().backward()
    assert logits.grad is not None
    ours = case.gradient(Bcpg(tau=TAU), beta=1.0)
    assert (ours - logits.grad)[[0, 1, 3]].abs().amax((1, 2)).min() > 1e-3
    # For a sequence of one token they agree.
    torch.testing.assert_close(ours[2], logits.grad[2])


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("tau", [0.05, 0.1, 0.5])
@pytest.mark.parametrize("advantage", [0.6, -0.4])
@pytest.mark.parametrize("tau_scale", ["absolute", "per_token"])
def test_rest_point_is_advantage_over_tau(form: Loss, tau: float, advantage: float, tau_scale: Any) -> None:
    """One free sequence settles at Delta* = A / tau, or at a mean drift per token of A / tau (docs/method.md)."""
    batch = row([-20.0] * 3, [-20.0] * 3, reward=float(advantage > 0), group_mean=0.4)
    factor = 3 if tau_scale == "per_token" else 1
    for _ in range(100):
        loss = form(batch, Bcpg(tau=tau, tau_scale=tau_scale)).loss.sum()
        (gradient,) = torch.autograd.grad(loss, batch.logprobs)
        with torch.no_grad():
            batch.logprobs.sub_(0.5 * factor / tau * gradient)  # log-probs as parameters: the anchor alone holds them
    assert batch.drift.item() == pytest.approx(factor * advantage / tau, rel=1e-9)


def test_the_anchor_does_not_see_token_weights() -> None:
    case = Case()
    parts = [bcpg(case.batch(case.logits, beta), Bcpg(tau=TAU)).parts for beta in (1.0, -0.5)]
    assert torch.equal(parts[0]["anchor"], parts[1]["anchor"])
    assert not torch.equal(parts[0]["gain"], parts[1]["gain"])


def test_tau_0_is_asymre_without_offset() -> None:
    case = Case()
    assert torch.equal(case.gradient(Bcpg(tau=0.0)), case.gradient(AsymRe(offset=0.0)))
    assert not torch.equal(case.gradient(Bcpg(tau=0.0)), case.gradient(AsymRe(offset=-0.1)))


@pytest.mark.parametrize("tau", [0.05, 0.5, 1.0, 30.0])
@pytest.mark.parametrize("num_right", [1, 4, 7])
def test_log_z_is_the_naive_formula(tau: float, num_right: int) -> None:
    rewards = [1.0] * num_right + [0.0] * (8 - num_right)
    log_z = tau * math.log(math.fsum(math.exp(reward / tau) for reward in rewards) / 8)
    for reward in (0.0, 1.0):
        batch = row([-1.0], [-1.0], reward=reward, group_mean=num_right / 8)
        found = baseline_advantage(batch, Bcpg(tau=tau, baseline="log_z")).item()
        assert found == pytest.approx(reward - log_z, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("tau", [1e-3, 1e-5, 1e-9])
def test_log_z_at_tiny_tau(tau: float) -> None:
    """exp(1 / tau) overflows; tau log Z = 1 + tau log rbar, so right ones get -tau log rbar and wrong ones -1 more."""
    right, wrong = (
        baseline_advantage(row([-1.0], [-1.0], reward=r, group_mean=0.25), Bcpg(tau=tau, baseline="log_z")).item()
        for r in (1.0, 0.0)
    )
    assert right == pytest.approx(tau * math.log(4), rel=1e-12)
    assert wrong == pytest.approx(-1 + tau * math.log(4), rel=1e-12)


def test_log_z_tends_to_the_mean() -> None:
    batch = row([-1.0], [-1.0], reward=1.0, group_mean=0.25)
    assert baseline_advantage(batch, Bcpg(tau=1e6, baseline="log_z")).item() == pytest.approx(0.75, abs=1e-6)


def test_numbers_stay_exact_in_fp32_where_sums_are_large() -> None:
    """7,000 tokens, each 1e-3 nats from the reference: Delta = 7, though the sums are near -14,000."""
    tokens = 7000
    reference = -torch.rand(1, tokens, generator=torch.Generator().manual_seed(0)) * 4
    batch = row([0.0] * tokens, [0.0] * tokens, reward=1.0)
    object.__setattr__(batch, "reference", reference)
    object.__setattr__(batch, "logprobs", reference + 1e-3)
    anchor = objective_loss(batch, Bcpg(tau=2.0, length="token")).parts["anchor"]
    assert anchor.item() == pytest.approx(49.0, rel=1e-3)
