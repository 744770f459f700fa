"""Who trains on which rows when: the whole plan of a round's training, made before its first step.

A plan is a pure function of the rows' lengths, so every rank computes the same one without talking, and a training
that stopped goes on with exactly the batches it had left.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

MicroBatch = tuple[int, ...]
"""Row indices of one forward on one rank, longest first; empty where a rank only keeps step with the others."""


@dataclass(frozen=True, slots=True)
class StepPlan:
    """One optimiser step.

    Attributes:
        num_sequences: rows of the step over all ranks: the denominator of its mean loss (docs/method.md).
        ranks: for every rank its micro-batches; all ranks have the same number.
    """

    num_sequences: int
    ranks: tuple[tuple[MicroBatch, ...], ...]


def plan_training(
    lengths: Sequence[int],
    *,
    epochs: int,
    batch_sequences: int,
    micro_batch_tokens: int,
    world_size: int,
    seed: int,
) -> list[StepPlan]:
    """All optimiser steps of a round, in order.

    Every row is used exactly once per epoch; the last step of an epoch may be smaller. Epochs are shuffled
    independently of each other.

    Args:
        lengths: tokens of each row, prompt and response.
        epochs: passes over the rows.
        batch_sequences: rows per step, over all ranks.
        micro_batch_tokens: most padded tokens (rows x longest) of one forward; a longer row gets one of its own.
        world_size: ranks to deal the rows to.
        seed: of the shuffles.
    """
    if epochs < 0 or batch_sequences < 1 or micro_batch_tokens < 1 or world_size < 1:
        raise ValueError(
            f"cannot plan {epochs=} {batch_sequences=} {micro_batch_tokens=} {world_size=}: epochs >= 0, others >= 1"
        )
    steps = []
    for epoch in range(epochs):
        order = np.random.default_rng([seed, epoch]).permutation(len(lengths)).tolist()
        for start in range(0, len(order), batch_sequences):
            rows = order[start : start + batch_sequences]
            steps.append(StepPlan(len(rows), split_rows(lengths, rows, micro_batch_tokens, world_size)))
    return steps


def split_rows(
    lengths: Sequence[int], rows: Sequence[int], micro_batch_tokens: int, world_size: int
) -> tuple[tuple[MicroBatch, ...], ...]:
    """Deal rows to ranks so that tokens are balanced, then cut each rank's share into micro-batches.

    Also the plan of a forward-only pass: the ranks' shares tile the rows.
    """
    shares: list[list[int]] = [[] for _ in range(world_size)]
    tokens = [0] * world_size
    # Longest first to the rank with least: within 4/3 of the best balance (Graham 1969). Longest first within a rank,
    # too, so the k-th forwards of all ranks are alike, and what does not fit into memory fails in the first one.
    for row in sorted(rows, key=lambda row: (-lengths[row], row)):
        rank = min(range(world_size), key=lambda rank: (tokens[rank], len(shares[rank]), rank))
        shares[rank].append(row)
        tokens[rank] += lengths[row]
    cut = [_cut(lengths, share, micro_batch_tokens) for share in shares]
    # A forward may be a collective (ZeRO-3 gathers weights in it), so every rank makes as many as the busiest.
    most = max(len(batches) for batches in cut)
    return tuple(tuple(batches + [()] * (most - len(batches))) for batches in cut)


def _cut(lengths: Sequence[int], share: Sequence[int], micro_batch_tokens: int) -> list[MicroBatch]:
    """Cut rows, sorted longest first, into micro-batches under the padded-token budget."""
    batches: list[list[int]] = []
    for row in share:
        if batches and (len(batches[-1]) + 1) * lengths[batches[-1][0]] <= micro_batch_tokens:
            batches[-1].append(row)
        else:
            batches.append([row])
    return [tuple(batch) for batch in batches]


def learning_rate(step: int, num_steps: int, *, peak: float, minimum: float, warmup_ratio: float) -> float:
    """Linear warm-up to ``peak``, then a cosine down to ``minimum`` at the last step (docs/method.md).

    Args:
        step: from 0; the first step already has a positive rate.
        num_steps: of the whole round.
        peak: the rate after the warm-up.
        minimum: the rate of the last step.
        warmup_ratio: share of the steps that warm up, rounded up.
    """
    if not 0 <= step < num_steps:
        raise ValueError(f"step {step} of {num_steps}")
    warmup_steps = math.ceil(warmup_ratio * num_steps)
    if step < warmup_steps:
        return peak * (step + 1) / warmup_steps
    progress = (step - warmup_steps) / max(1, num_steps - 1 - warmup_steps)
    return minimum + (peak - minimum) * 0.5 * (1 + math.cos(math.pi * progress))
