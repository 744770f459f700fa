"""BCPG and BCPG-NSA, Eq. 6 of arXiv 2505.14403."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from bcpg_cluster.stages.train.objective import Bcpg
from bcpg_cluster.stages.train.objectives.batch import LossBatch, RowLosses, length_divisor
from bcpg_cluster.stages.train.objectives.terms import anchor, token_advantages, weighted_likelihood


def bcpg(batch: LossBatch, options: Bcpg) -> RowLosses:
    """Eq. 6 as it stands (negated)::

        loss_i = -(1/abs(y_i)) * [ sum_j beta_ij * A_i * lp_ij - (tau_i/2) * Delta_i^2 ]

    The square is on the sequence sum, over all response tokens, and the token weights do not enter it. All weights 1
    is plain BCPG. tau_i is tau, or tau / abs(y_i) with ``tau_scale`` per_token; A_i is :func:`baseline_advantage`.

    Parts: ``gain`` (the first term) and ``anchor``.
    """
    coefficients = token_advantages(batch, baseline_advantage(batch, options))  # [B, T]
    divisor = length_divisor(batch, options.length, options.constant_tokens)
    gain = weighted_likelihood(batch, coefficients) / divisor
    return RowLosses.of({"gain": gain, "anchor": anchor(batch, _tau(batch, options)) / divisor}, coefficients)


def bcpg_token_weight_loss(batch: LossBatch, options: Bcpg) -> RowLosses:
    """The same gradient as :func:`bcpg` from fixed token weights (docs/method.md); the value differs::

    w_ij   = sg[ beta_ij * A_i - tau_i * Delta_i ]
    loss_i = -(1/abs(y_i)) * sum_j w_ij * lp_ij

    Nothing trains with it: tests hold the two forms against each other. Its one part is ``weighted``.
    """
    coefficients = token_advantages(batch, baseline_advantage(batch, options))  # [B, T]
    weights = coefficients - (_tau(batch, options) * batch.drift)[:, None]
    divisor = length_divisor(batch, options.length, options.constant_tokens)
    return RowLosses.of({"weighted": weighted_likelihood(batch, weights) / divisor}, coefficients)


def baseline_advantage(batch: LossBatch, options: Bcpg) -> Tensor:
    """A_i [B]: r_i - rbar; with ``baseline`` log_z, r_i - tau * log mean exp(r / tau) over the group.

    The second is the one that the closed-form optimum asks for (Kimi k1.5, arXiv 2501.12599, section 2.3.2). For rewards
    0 and 1 the mean is rbar * e^(1/tau) + (1 - rbar), and with e^(1/tau), which overflows at small tau, taken out::

        A_i = (r_i - 1) - tau * log( 1 + (1 - rbar) * (e^(-1/tau) - 1) )

    rbar is above 0: groups without a right response are not trained on.
    """
    if options.baseline == "mean":
        return batch.advantage
    log_mean = torch.log1p((1 - batch.group_mean) * math.expm1(-1 / options.tau))
    return (batch.reward - 1) - options.tau * log_mean


def _tau(batch: LossBatch, options: Bcpg) -> Tensor:
    """tau_i [B]."""
    tau = torch.full_like(batch.advantage, options.tau)
    return tau / batch.num_tokens if options.tau_scale == "per_token" else tau
