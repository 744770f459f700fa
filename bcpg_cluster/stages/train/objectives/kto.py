"""Kahneman-Tversky optimisation, arXiv 2402.01306."""

from __future__ import annotations

import torch

from bcpg_cluster.stages.train.objective import Kto
from bcpg_cluster.stages.train.objectives.batch import LossBatch, RowLosses


def kto(batch: LossBatch, options: Kto) -> RowLosses:
    """Right and wrong responses, unpaired, against a common point of comparison z0::

        z0     = max(0, mean Delta over mismatched prompts and responses of the step), without gradient
        v_i    = sigmoid(beta * (Delta_i - z0)) if r_i = 1, else sigmoid(beta * (z0 - Delta_i))
        loss_i = w_i * (1 - v_i),    w_i = right_weight or wrong_weight

    Delta_i is a sum over the sequence: there is no scaling by length. Token weights play no part. Part: ``value``.

    The push is -d loss / d Delta_i = +-w_i * beta * v_i * (1 - v_i) on every token.
    """
    sign = torch.where(batch.is_right, 1.0, -1.0).to(batch.logprobs.dtype)  # [B]
    weight = torch.where(batch.is_right, options.right_weight, options.wrong_weight).to(batch.logprobs.dtype)
    margin = sign * options.beta * (batch.drift - max(batch.step_drift, 0.0))
    missing = torch.sigmoid(-margin)  # 1 - v, without the cancellation of a v near 1
    push = sign * weight * options.beta * missing * torch.sigmoid(margin)
    return RowLosses.of({"value": weight * missing}, push[:, None] * batch.mask)
