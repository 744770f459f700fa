"""What holds for every objective: names, padding, rows, parts, pushes, finite differences."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from bcpg_cluster.stages.train.objective import (
    OBJECTIVES,
    AsymRe,
    Bcpg,
    Dpo,
    Grpo,
    Kto,
    Nft,
    Rft,
    Topr,
    WeightedReinforce,
)
from bcpg_cluster.stages.train.objectives import LOSSES, RowLosses, objective_loss
from bcpg_cluster.stages.train.objectives.batch import length_divisor
from tests.unit.stages.train.objectives.loss_cases import Case, rearranged, row

# Wide clips, so that finite differences meet no kink; the clips have tests of their own.
SETTINGS: list[Any] = [
    Bcpg(tau=0.3),
    Bcpg(tau=0.3, tau_scale="per_token", baseline="log_z", length="token"),
    Bcpg(tau=0.3, length="constant", constant_tokens=8),
    Rft(),
    Rft(length="sequence"),
    Dpo(nll_weight=0.7),
    Topr(),
    Topr(reward="group_centered", ratio="length_normalised"),
    Grpo(),
    Grpo(epsilon_low=0.9, epsilon_high=9.0, kl_weight=0.3, length="token"),
    AsymRe(),
    Kto(right_weight=1.5),
    Nft(),
    Nft(prompt_weight="odds", epsilon=0.01, length="token"),
    WeightedReinforce(tau=0.2),
]


def named(options: Any) -> str:
    return f"{options.name}-{SETTINGS.index(options)}"


every = pytest.mark.parametrize("options", SETTINGS, ids=named)


def test_every_objective_of_the_configuration_has_a_loss() -> None:
    assert LOSSES.keys() == OBJECTIVES.keys()
    assert {options.name for options in SETTINGS} == OBJECTIVES.keys()  # and is tested below


@every
def test_rows_and_padding_do_not_touch_each_other(options: Any) -> None:
    """Permuting, widening, garbage in the padding, splitting into micro-batches: the same sum and gradient."""
    case = Case()

    def outcome(pieces: list[list[int]], extra: int, garbage: float) -> tuple[float, Tensor]:
        logits = case.logits.clone().requires_grad_()
        whole = case.batch(logits)
        losses = [objective_loss(rearranged(whole, rows, extra, garbage), options) for rows in pieces]
        total = torch.cat([losses_.loss for losses_ in losses]).sum()
        total.backward()
        assert logits.grad is not None
        for losses_ in losses:
            assert losses_.push.isfinite().all()
        return total.item(), logits.grad

    wanted, wanted_gradient = outcome([[0, 1, 2, 3]], 0, 0.0)
    assert wanted_gradient.abs().max() > 1e-3
    for garbage in (math.nan, math.inf, -math.inf, 9.0):
        for pieces in ([[2, 0, 3, 1]], [[3], [1, 0], [2]]):
            found, gradient = outcome(pieces, 3, garbage)
            assert found == pytest.approx(wanted, rel=1e-13)
            torch.testing.assert_close(gradient, wanted_gradient, rtol=0, atol=1e-15)


@every
def test_only_own_tokens_get_a_gradient(options: Any) -> None:
    case = Case()
    touched = case.gradient(options).abs().amax(-1) > 0  # [4, 9]
    reaches = torch.cat([case.mask, case.rival_mask & (options.name == "dpo")], dim=1)
    assert not (touched & ~reaches).any()
    if options.name != "grpo":  # whose clip silences some
        assert touched.sum() == reaches.sum()


@every
def test_parts_are_detached_and_add_up(options: Any) -> None:
    case = Case()
    losses = objective_loss(case.batch(case.logits.clone().requires_grad_()), options)
    assert losses.loss.requires_grad and losses.loss.shape == (4,)
    assert not any(part.requires_grad for part in losses.parts.values())
    assert not losses.push.requires_grad
    torch.testing.assert_close(torch.stack(list(losses.parts.values())).sum(0), losses.loss.detach())


@every
def test_the_push_is_the_gradient_at_the_reference(options: Any) -> None:
    """Without drift no anchor, taper or clip acts: -d loss / d lp_ij is the push, times 1 over the length divisor."""
    case = Case().at_reference()
    case.step_drift = 0.0
    batch = case.batch(case.logits)
    logprobs = batch.logprobs.clone().requires_grad_()
    if options.name == "dpo":
        options = Dpo()  # the push leaves out the nll term
    moved = rearranged(batch, [0, 1, 2, 3], 0, 0.0)
    object.__setattr__(moved, "logprobs", logprobs)
    losses = objective_loss(moved, options)
    losses.loss.sum().backward()
    assert logprobs.grad is not None
    divisor = torch.ones(4, dtype=torch.long)
    if hasattr(options, "length"):
        divisor = length_divisor(batch, options.length, getattr(options, "constant_tokens", 0))
    torch.testing.assert_close(losses.push / divisor[:, None], -logprobs.grad * case.mask)


def frozen_away(options: Any) -> bool:
    """Objectives whose loss holds a stop-gradient: their gradient is not that of their value."""
    return isinstance(options, Topr) or (isinstance(options, Nft) and options.epsilon == 1.0)


@pytest.mark.parametrize("options", [o for o in SETTINGS if not frozen_away(o)], ids=named)
@pytest.mark.parametrize("beta", [1.0, 0.5, 0.0, -0.5])
def test_gradient_is_that_of_finite_differences(options: Any, beta: float) -> None:
    case = Case()
    loss = lambda logits: objective_loss(case.batch(logits, beta), options).loss.sum()  # noqa: E731
    assert torch.autograd.gradcheck(loss, case.logits.clone().requires_grad_())


TOKEN_WEIGHTED = [o for o in SETTINGS if isinstance(o, Bcpg | Grpo | Topr | AsymRe | WeightedReinforce)]


@pytest.mark.parametrize("options", TOKEN_WEIGHTED, ids=named)
def test_gradient_is_affine_in_beta_on_mined_tokens_only(options: Any) -> None:
    case = Case()
    if isinstance(options, Grpo | Topr):
        case.at_reference()  # off it, clip and taper follow the sign of beta * A
    at = {beta: case.gradient(options, beta) for beta in (1.0, 0.5, 0.0, -0.5)}
    slope = at[1.0] - at[0.0]
    for beta, gradient in at.items():
        torch.testing.assert_close(gradient, at[0.0] + beta * slope, rtol=0, atol=1e-14)
    reached = torch.cat([case.mined & case.mask, torch.zeros(4, 4, dtype=torch.bool)], dim=1)
    assert reached.any()
    assert (slope[reached].abs().amax(-1) > 0).all()
    assert slope[~reached].abs().max() == 0


@pytest.mark.parametrize("options", [o for o in SETTINGS if o not in TOKEN_WEIGHTED], ids=named)
def test_objectives_without_token_weights_do_not_see_them(options: Any) -> None:
    case = Case()
    assert torch.equal(case.gradient(options, beta=-0.5), case.gradient(options, beta=1.0))


@pytest.mark.parametrize("options", TOKEN_WEIGHTED, ids=named)
def test_token_weights_without_mined_tokens_are_the_plain_objective(options: Any) -> None:
    case = Case()
    case.mined[:] = False
    assert torch.equal(case.gradient(options, beta=-0.5), case.gradient(options, beta=1.0))


@pytest.mark.parametrize("kind", [Bcpg, Topr, Grpo, AsymRe, Nft, WeightedReinforce])
def test_lengths_scale_rows(kind: Any) -> None:
    """Rows of 5, 3, 1 and 4 tokens: their sums over 1, over their lengths, over a constant."""
    case = Case()

    def losses(**options: Any) -> RowLosses:
        return objective_loss(case.batch(case.logits), kind(**options))

    sums = losses(length="token").loss
    torch.testing.assert_close(losses().loss, sums / torch.tensor([5, 3, 1, 4]))
    torch.testing.assert_close(losses(length="constant", constant_tokens=16).loss, sums / 16)


@every
def test_an_empty_response_costs_nothing_but_its_pair(options: Any) -> None:
    batch = row([-1.0, -2.0], [-1.0, -1.0], reward=0.0)
    for name in ("logprobs", "reference", "token_weights"):
        object.__setattr__(batch, name, getattr(batch, name)[:, :0])
    object.__setattr__(batch, "mask", batch.mask[:, :0])
    if isinstance(options, Dpo):
        with pytest.raises(ValueError, match="rival"):
            objective_loss(batch, options)
    elif isinstance(options, Kto):
        assert objective_loss(batch, options).loss.item() == 0.5  # sigmoid(0): a sequence without drift
    else:
        assert objective_loss(batch, options).loss.item() == 0
