"""Negative-aware fine-tuning, arXiv 2505.18116, with the reference as the old policy."""

from __future__ import annotations

import torch
from torch import Tensor

from bcpg_cluster.stages.train.objective import Nft
from bcpg_cluster.stages.train.objectives.batch import LossBatch, RowLosses, length_divisor, masked

_SHARE_FLOOR = 1e-6


def nft(batch: LossBatch, options: Nft) -> RowLosses:
    """Likelihood of right responses under the policy, of wrong ones under an implicit negative policy::

        R_ij   = exp(lp_ij - lp_ref_ij)
        z_ij   = (1 - rbar * R_ij) / (1 - rbar)        the negative policy's ratio to the reference
        loss_i = -(1/abs(y_i)) * omega * sum_j [ r_i * log R_ij + (1 - r_i) * log maxv(z_ij, eps) ]
        maxv(z, eps) = sg[ max(z, eps) - z ] + z

    maxv has the value of the maximum and the gradient of z: the floor bounds a token's push but does not stop it. z is
    computed as 1 - rbar / (1 - rbar) * (R - 1), which is exactly 1 at the reference however near rbar is to 1.
    omega is 1 - rbar, (1 - rbar) / rbar or 1. At the reference the gradient is that of REINFORCE with A_i, A_i / rbar and
    A_i / (1 - rbar): GRPO's up to a factor per prompt, and with 1 - rbar just Dr. GRPO's.

    Token weights play no part: a sign of its own per token has no meaning where the wrong response is *fitted*, by
    another policy. Part: ``nll``. The push is the coefficient of the gradient of lp_ij, omega or
    -omega * rbar / (1 - rbar) * R_ij / max(z_ij, eps).
    """
    right = batch.is_right[:, None] | ~batch.mask  # [B, T]; padding takes the harmless branch
    log_ratio = batch.logprobs - batch.reference  # [B, T]
    odds = (batch.group_mean / (1 - batch.group_mean).clamp(min=_SHARE_FLOOR))[:, None]  # [B, 1], rbar / (1 - rbar)
    # Right tokens leave before exp: a ratio that overflows would send 0 * inf = NaN back through it.
    excess = torch.expm1(torch.where(right, torch.zeros_like(log_ratio), log_ratio))  # R - 1
    ratio = 1 - odds * excess  # z
    floored = ratio.detach().clamp(min=options.epsilon)
    # log maxv: its value, and a zero that carries the gradient of z / maxv. maxv written out would cancel at z << 0.
    log_negative = floored.log() + (ratio - ratio.detach()) / floored
    log_likelihood = torch.where(right, log_ratio, log_negative)
    omega = _prompt_weight(batch.group_mean, options)
    divisor = length_divisor(batch, options.length, options.constant_tokens)
    nll = -omega * log_likelihood.sum(dim=1) / divisor
    push = torch.where(right, torch.ones_like(log_ratio), -odds * (1 + excess) / floored)
    return RowLosses.of({"nll": nll}, masked(omega[:, None] * push, batch.mask))


def _prompt_weight(group_mean: Tensor, options: Nft) -> Tensor:
    """omega(q) [B]."""
    if options.prompt_weight == "uniform":
        return torch.ones_like(group_mean)
    wrong = 1 - group_mean
    return wrong if options.prompt_weight == "one_minus_mean" else wrong / group_mean.clamp(min=_SHARE_FLOOR)
