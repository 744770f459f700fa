"""Summands that several objectives share. All are losses (to be minimised), [B], before any scaling by length."""

from __future__ import annotations

from torch import Tensor

from bcpg_cluster.stages.train.objectives.batch import LossBatch


def weighted_likelihood(batch: LossBatch, coefficients: Tensor) -> Tensor:
    """-sum_j c_ij * lp_ij [B] for fixed coefficients [B, T]: REINFORCE when they are advantages."""
    return -(coefficients.detach() * batch.logprobs).sum(dim=1)


def anchor(batch: LossBatch, tau: Tensor | float) -> Tensor:
    """(tau/2) * Delta_i^2 [B], Eq. 6's second term: the square is of the sum over all response tokens, unweighted.

    Args:
        tau: one for all rows, or [B].
    """
    return 0.5 * tau * batch.drift.square()


def token_advantages(batch: LossBatch, advantage: Tensor) -> Tensor:
    """beta_ij * A_i [B, T] of advantages [B], 0 in the padding: NSA's token weights on any objective's advantage."""
    return batch.token_weights * advantage[:, None]
