"""Maximum likelihood of chosen responses: rejection fine-tuning (RFT), arXiv 2308.01825."""

from __future__ import annotations

from bcpg_cluster.stages.train.objective import Rft
from bcpg_cluster.stages.train.objectives.batch import LossBatch, RowLosses, length_divisor
from bcpg_cluster.stages.train.objectives.terms import weighted_likelihood


def rft(batch: LossBatch, options: Rft) -> RowLosses:
    """Supervised fine-tuning on the rows there are (the right responses; with ``on`` the wrong ones, or all)::

        loss_i = -sum_j lp_ij          (/ abs(y_i) with ``length`` sequence)

    Token weights, rewards and the reference play no part. Part: ``nll``.
    """
    ones = batch.mask.to(batch.logprobs.dtype)
    nll = weighted_likelihood(batch, ones) / length_divisor(batch, options.length)
    return RowLosses.of({"nll": nll}, ones)
