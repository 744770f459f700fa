"""Direct preference optimisation, arXiv 2305.18290, on right against wrong responses."""

from __future__ import annotations

import torch
from torch.nn.functional import logsigmoid

from bcpg_cluster.stages.train.objective import Dpo
from bcpg_cluster.stages.train.objectives.batch import LossBatch, RowLosses, sequence_drift
from bcpg_cluster.stages.train.objectives.terms import weighted_likelihood


def dpo(batch: LossBatch, options: Dpo) -> RowLosses:
    """The row's own response is y+, its rival y- (the source's Eq. 7)::

        margin_i = beta * (Delta(y+) - Delta(y-))
        loss_i   = -log sigmoid(margin_i) - nll_weight * (1/abs(y+)) * sum_j lp_j(y+)

    Delta is a sum over the sequence: there is no scaling by length but in the second term, which is that of Iterative RPO
    (arXiv 2404.19733). Token weights play no part. Parts: ``preference``, ``nll``.

    The push is that of the preference on y+'s tokens, beta * sigmoid(-margin); y- gets the opposite.

    Raises:
        ValueError: the rows have no rivals.
    """
    if batch.rival_logprobs is None or batch.rival_reference is None or batch.rival_mask is None:
        raise ValueError("DPO needs a rival beside every row")
    rival_drift = sequence_drift(batch.rival_logprobs, batch.rival_reference, batch.rival_mask)
    margin = options.beta * (batch.drift - rival_drift)  # [B]
    ones = batch.mask.to(batch.logprobs.dtype)
    nll = options.nll_weight * weighted_likelihood(batch, ones) / batch.num_tokens
    push = options.beta * torch.sigmoid(-margin)[:, None] * ones
    return RowLosses.of({"preference": -logsigmoid(margin), "nll": nll}, push)
