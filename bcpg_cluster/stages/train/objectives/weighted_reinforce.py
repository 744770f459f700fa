"""W-REINFORCE, arXiv 2506.01347, made offline by BCPG's anchor."""

from __future__ import annotations

import torch

from bcpg_cluster.stages.train.objective import WeightedReinforce
from bcpg_cluster.stages.train.objectives.batch import LossBatch, RowLosses, length_divisor
from bcpg_cluster.stages.train.objectives.terms import anchor, token_advantages, weighted_likelihood


def weighted_reinforce(batch: LossBatch, options: WeightedReinforce) -> RowLosses:
    """Wrong responses pushed down in full, right ones up a little::

        loss_i = -(1/abs(y_i)) * [ sum_j beta_ij * a_i * lp_ij - (tau/2) * Delta_i^2 ]
        a_i    = positive_weight if r_i = 1, else -1

    The source is on-policy and has no anchor. NSA's beta_ij multiplies the token's advantage; neither is in the paper.
    Parts: ``gain``, ``anchor``.
    """
    advantage = torch.where(batch.is_right, options.positive_weight, -1.0).to(batch.logprobs.dtype)  # [B]
    push = token_advantages(batch, advantage)  # [B, T]
    divisor = length_divisor(batch, options.length, options.constant_tokens)
    gain = weighted_likelihood(batch, push) / divisor
    return RowLosses.of({"gain": gain, "anchor": anchor(batch, options.tau) / divisor}, push)
