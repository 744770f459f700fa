"""Batches for the tests of objectives: a tiny softmax policy with free logits, and log-probs written down by hand."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from bcpg_cluster.stages.train.objectives import LossBatch, RowLosses, objective_loss

Loss = Callable[[LossBatch, Any], RowLosses]


class Case:
    """Four rows, the first right and three wrong, of a policy whose parameters are its logits, so that every gradient is
    exact. Responses have 5, 3, 1 and 4 tokens; rivals 2, 4, 3 and 1. All is fp64.
    """

    def __init__(self, seed: int = 0) -> None:
        draw = torch.Generator().manual_seed(seed)
        self.logits = torch.randn(4, 9, 7, generator=draw, dtype=torch.float64)  # 5 own tokens, 4 of the rival
        self.tokens = torch.randint(0, 7, (4, 9), generator=draw)
        self.mask = torch.arange(5)[None] < torch.tensor([5, 3, 1, 4])[:, None]
        self.rival_mask = torch.arange(4)[None] < torch.tensor([2, 4, 3, 1])[:, None]
        shift = 0.3 * torch.randn(4, 9, generator=draw, dtype=torch.float64)
        self.reference = self.logprobs(self.logits) + shift
        self.reward = torch.tensor([1.0, 0.0, 0.0, 0.0], dtype=torch.float64)
        self.group_mean = torch.full((4,), 0.25, dtype=torch.float64)
        self.mined = (torch.rand(4, 5, generator=draw) < 0.5) & (self.reward == 0)[:, None]
        self.step_drift = 0.2

    def logprobs(self, logits: Tensor) -> Tensor:
        """[4, 9] of the chosen tokens."""
        return logits.log_softmax(-1).gather(-1, self.tokens[..., None]).squeeze(-1)

    def at_reference(self) -> Case:
        """The same case with Delta = 0."""
        self.reference = self.logprobs(self.logits)
        return self

    def batch(self, logits: Tensor, beta: float = 0.5) -> LossBatch:
        logprobs = self.logprobs(logits)
        return LossBatch(
            logprobs=logprobs[:, :5],
            reference=self.reference[:, :5],
            mask=self.mask,
            token_weights=torch.where(self.mined, beta, 1.0).double(),
            advantage=self.reward - self.group_mean,
            reward=self.reward,
            group_mean=self.group_mean,
            rival_logprobs=logprobs[:, 5:],
            rival_reference=self.reference[:, 5:],
            rival_mask=self.rival_mask,
            step_drift=self.step_drift,
        )

    def gradient(self, options: Any, beta: float = 0.5, loss: Loss = objective_loss) -> Tensor:
        """d (sum of row losses) / d logits [4, 9, 7]."""
        logits = self.logits.clone().requires_grad_()
        loss(self.batch(logits, beta), options).loss.sum().backward()
        assert logits.grad is not None
        return logits.grad

    def reinforce(self, weights: Tensor) -> Tensor:
        """d -sum_i (1/abs(y_i)) sum_j weights_ij * lp_ij / d logits, for weights [4, 5] or [4, 1]."""
        logits = self.logits.clone().requires_grad_()
        terms = (weights * self.logprobs(logits)[:, :5] * self.mask).sum(1) / self.mask.sum(1)
        (-terms.sum()).backward()
        assert logits.grad is not None
        return logits.grad


def row(
    logprobs: Sequence[float],
    reference: Sequence[float],
    *,
    reward: float,
    group_mean: float = 0.5,
    weights: Sequence[float] | None = None,
    **rest: Any,
) -> LossBatch:
    """One row without padding, of numbers written down by hand, fp64; its log-probs carry a gradient."""
    wide = torch.tensor([logprobs], dtype=torch.float64, requires_grad=True)
    return LossBatch(
        logprobs=wide,
        reference=torch.tensor([reference], dtype=torch.float64),
        mask=torch.ones(1, len(logprobs), dtype=torch.bool),
        token_weights=torch.tensor([weights or [1.0] * len(logprobs)], dtype=torch.float64),
        advantage=torch.tensor([reward - group_mean], dtype=torch.float64),
        reward=torch.tensor([reward], dtype=torch.float64),
        group_mean=torch.tensor([group_mean], dtype=torch.float64),
        **rest,
    )


def rearranged(batch: LossBatch, rows: list[int], extra: int, garbage: float) -> LossBatch:
    """Some rows of a batch in another order, with ``extra`` more padding, and all padding holding ``garbage``."""

    def spoilt(values: Tensor, mask: Tensor) -> Tensor:
        wide = pad(values[rows], (0, extra), value=garbage)
        return torch.where(pad(mask[rows], (0, extra)), wide, garbage)

    assert batch.rival_logprobs is not None and batch.rival_reference is not None and batch.rival_mask is not None
    return replace(
        batch,
        logprobs=spoilt(batch.logprobs, batch.mask),
        reference=spoilt(batch.reference, batch.mask),
        token_weights=spoilt(batch.token_weights, batch.mask),
        mask=pad(batch.mask[rows], (0, extra)),
        advantage=batch.advantage[rows],
        reward=batch.reward[rows],
        group_mean=batch.group_mean[rows],
        rival_logprobs=spoilt(batch.rival_logprobs, batch.rival_mask),
        rival_reference=spoilt(batch.rival_reference, batch.rival_mask),
        rival_mask=pad(batch.rival_mask[rows], (0, extra)),
    )
