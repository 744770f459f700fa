"""Asymmetric REINFORCE, arXiv 2506.20520."""

from __future__ import annotations

from bcpg_cluster.stages.train.objective import AsymRe
from bcpg_cluster.stages.train.objectives.batch import LossBatch, RowLosses, length_divisor
from bcpg_cluster.stages.train.objectives.terms import token_advantages, weighted_likelihood


def asymre(batch: LossBatch, options: AsymRe) -> RowLosses:
    """REINFORCE off-policy, without ratio or anchor, with a baseline below the mean reward::

        loss_i = -(1/abs(y_i)) * sum_j beta_ij * (r_i - rbar - offset) * lp_ij

    With offset 0 this is BCPG at tau = 0. NSA's beta_ij multiplies the token's advantage; this is not in the paper.
    Part: ``gain``.
    """
    push = token_advantages(batch, batch.advantage - options.offset)  # [B, T]
    divisor = length_divisor(batch, options.length, options.constant_tokens)
    return RowLosses.of({"gain": weighted_likelihood(batch, push) / divisor}, push)
