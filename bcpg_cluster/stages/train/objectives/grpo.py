"""GRPO (arXiv 2402.03300) on a fixed data set: the old policy is the reference, and is never refreshed."""

from __future__ import annotations

import torch
from torch import Tensor

from bcpg_cluster.stages.train.objective import Grpo
from bcpg_cluster.stages.train.objectives.batch import LossBatch, RowLosses, length_divisor
from bcpg_cluster.stages.train.objectives.terms import token_advantages

_STD_FLOOR = 1e-6


def grpo(batch: LossBatch, options: Grpo) -> RowLosses:
    """The source's Eq. 3 (negated), with old policy and reference the same::

        rho_ij = exp(lp_ij - lp_ref_ij)
        loss_i = -(1/abs(y_i)) * sum_j [ min(rho_ij * A_ij, clip(rho_ij, 1 - eps_low, 1 + eps_high) * A_ij)
                                         - kl_weight * k3_ij ]
        k3_ij  = exp(lp_ref_ij - lp_ij) - (lp_ref_ij - lp_ij) - 1

    A_i = (r_i - rbar) / (std + 1e-6), with the group's population standard deviation, for rewards 0 and 1
    sqrt(rbar * (1 - rbar)); undivided without ``divide_by_std``.

    NSA is grafted on as A_ij = beta_ij * A_i: which side of the clip is a token's follows the sign of that, so a mined
    token with beta < 0 stops at 1 + eps_high. This is not in the paper, nor in BCPG-NSA's.

    Parts: ``surrogate``, ``kl``. Clipped: tokens whose surrogate has no gradient.
    """
    advantage = batch.advantage
    if options.divide_by_std:
        advantage = advantage / ((batch.group_mean * (1 - batch.group_mean)).sqrt() + _STD_FLOOR)
    push = token_advantages(batch, advantage)  # [B, T]
    log_ratio = batch.logprobs - batch.reference  # [B, T]
    low, high = 1 - options.epsilon_low, 1 + options.epsilon_high
    surrogate, clipped = _clipped_surrogate(log_ratio, push, low, high)
    divisor = length_divisor(batch, options.length, options.constant_tokens)
    kl = torch.zeros_like(advantage)
    if options.kl_weight > 0:
        kl = options.kl_weight * (torch.expm1(-log_ratio) + log_ratio).sum(dim=1)
    return RowLosses.of({"surrogate": -surrogate.sum(dim=1) / divisor, "kl": kl / divisor}, push, clipped)


def _clipped_surrogate(log_ratio: Tensor, push: Tensor, low: float, high: float) -> tuple[Tensor, Tensor]:
    """min(rho * A, clip(rho, low, high) * A) [B, T], and where it is the constant of a clip [B, T]."""
    ratio = log_ratio.detach().exp()
    clipped = ((push > 0) & (ratio > high)) | ((push < 0) & (ratio < low))
    # Clipped tokens leave before exp: a ratio that overflows would send 0 * inf = NaN back through it.
    live = torch.where(clipped, torch.zeros_like(log_ratio), log_ratio).exp()
    return push * torch.where(clipped, ratio.clamp(low, high), live), clipped
