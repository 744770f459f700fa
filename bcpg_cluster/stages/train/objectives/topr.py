"""Tapered off-policy REINFORCE, arXiv 2503.14286."""

from __future__ import annotations

import torch

from bcpg_cluster.stages.train.objective import Topr
from bcpg_cluster.stages.train.objectives.batch import LossBatch, RowLosses, length_divisor
from bcpg_cluster.stages.train.objectives.terms import token_advantages, weighted_likelihood


def topr(batch: LossBatch, options: Topr) -> RowLosses:
    """The canonical choice of limits, on data drawn from the reference::

        loss_i = -(1/abs(y_i)) * sum_j w_ij * R_ij * lp_ij
        w_ij   = 1 if R_ij > 0, else sg[ min(1, rho_i) ]
        rho_i  = exp(Delta_i), or exp(Delta_i / abs(y_i)) with ``ratio`` length_normalised

    R_i is +1 or -1, or r_i - rbar with ``reward`` group_centered. What pushes down fades as the policy leaves the response;
    what pushes up never does.

    NSA is grafted on as R_ij = beta_ij * R_i, and the taper follows the sign of that: a mined token of a wrong response
    with beta < 0 is pushed up, with weight 1. This is not in the paper, nor in BCPG-NSA's.

    Part: ``gain``. Clipped: tokens pushed down with a taper below 1/2.
    """
    reward = batch.advantage if options.reward == "group_centered" else 2 * batch.reward - 1
    push = token_advantages(batch, reward)  # [B, T]
    log_ratio = batch.drift.detach()
    if options.ratio == "length_normalised":
        log_ratio = log_ratio / batch.num_tokens
    taper = log_ratio.clamp(max=0).exp()[:, None]  # [B, 1]; clamped before exp, which cannot overflow then
    is_down = push < 0
    gain = weighted_likelihood(batch, torch.where(is_down, taper * push, push))
    gain = gain / length_divisor(batch, options.length, options.constant_tokens)
    return RowLosses.of({"gain": gain}, push, is_down & (taper < 0.5))
