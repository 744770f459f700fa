"""Who trains on which rows when: the whole plan of a round's training, made before its first step.

A plan is a pure function of the rows' lengths, so every rank computes the same one without talking, and a training
that stopped resumes with exactly the batches it had left.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

Packing = Literal["padded", "packed"]
"""What a forward's tokens cost: a rectangle (sequences x longest), or their sum."""

MicroBatch = tuple[int, ...]
"""Row indices of one forward on one rank, longest first; empty where a rank only keeps step with the others."""


@dataclass(frozen=True, slots=True)
class RowSize:
    """What the plan knows of a row.

    Attributes:
        sequences: tokens of each of its sequences, prompt included: one, or two where the row has a rival.
        response_tokens: of its own response; what the row adds to a loss that is a mean over tokens.
    """

    sequences: tuple[int, ...]
    response_tokens: int

    @property
    def tokens(self) -> int:
        """All its tokens."""
        return sum(self.sequences)


@dataclass(frozen=True, slots=True)
class StepPlan:
    """One optimiser step.

    Attributes:
        num_rows: rows of the step over all ranks.
        divisor: what the sum of its row losses is divided by, over all ranks: its rows, or their response tokens
            (docs/method.md).
        ranks: for every rank its micro-batches; all ranks have the same number.
    """

    num_rows: int
    divisor: int
    ranks: tuple[tuple[MicroBatch, ...], ...]


def plan_training(
    sizes: Sequence[RowSize],
    *,
    epochs: int,
    rows_per_step: int,
    micro_batch_tokens: int,
    world_size: int,
    seed: int,
    packing: Packing = "padded",
    divides_by_tokens: bool = False,
) -> list[StepPlan]:
    """All optimiser steps of a round, in order.

    Every row is used exactly once per epoch; the last step of an epoch may be smaller. Epochs are shuffled
    independently of each other.

    Args:
        sizes: of each row.
        epochs: passes over the rows.
        rows_per_step: over all ranks.
        micro_batch_tokens: most tokens of one forward, counted as ``packing`` says; a longer row gets one of its own.
        world_size: ranks to deal the rows to.
        seed: of the shuffles.
        divides_by_tokens: whether a step's divisor counts response tokens instead of rows.
    """
    if epochs < 0 or rows_per_step < 1 or micro_batch_tokens < 1 or world_size < 1:
        raise ValueError(
            f"cannot plan {epochs=} {rows_per_step=} {micro_batch_tokens=} {world_size=}: epochs >= 0, others >= 1"
        )
    steps = []
    for epoch in range(epochs):
        order = np.random.default_rng([seed, epoch]).permutation(len(sizes)).tolist()
        for start in range(0, len(order), rows_per_step):
            rows = order[start : start + rows_per_step]
            divisor = sum(sizes[row].response_tokens for row in rows) if divides_by_tokens else len(rows)
            steps.append(StepPlan(len(rows), divisor, split_rows(sizes, rows, micro_batch_tokens, world_size, packing)))
    return steps


def split_rows(
    sizes: Sequence[RowSize],
    rows: Sequence[int],
    micro_batch_tokens: int,
    world_size: int,
    packing: Packing = "padded",
) -> tuple[tuple[MicroBatch, ...], ...]:
    """Deal rows to ranks so that tokens are balanced, then cut each rank's share into micro-batches.

    Also the plan of a forward-only pass: the ranks' shares tile the rows.
    """
    shares: list[list[int]] = [[] for _ in range(world_size)]
    tokens = [0] * world_size
    # Longest first to the rank with least: within 4/3 of the best balance (Graham 1969). Longest first within a rank,
    # too, so the k-th forwards of all ranks are alike, and what does not fit into memory fails in the first one.
    for row in sorted(rows, key=lambda row: (-sizes[row].tokens, row)):
        rank = min(range(world_size), key=lambda rank: (tokens[rank], len(shares[rank]), rank))
        shares[rank].append(row)
        tokens[rank] += sizes[row].tokens
    cut = [_cut(sizes, share, micro_batch_tokens, packing) for share in shares]
    # A forward may be a collective (ZeRO-3 gathers weights in it), so every rank makes as many as the busiest.
    most = max(len(batches) for batches in cut)
    return tuple(tuple(batches + [()] * (most - len(batches))) for batches in cut)


def _cut(sizes: Sequence[RowSize], share: Sequence[int], micro_batch_tokens: int, packing: Packing) -> list[MicroBatch]:
    """Cut rows, in the given order, into micro-batches under the token budget."""
    batches: list[list[int]] = []
    count = longest = total = 0  # of the open micro-batch's sequences
    for row in share:
        size = sizes[row]
        count += len(size.sequences)
        longest = max(longest, *size.sequences)
        total += size.tokens
        cost = total if packing == "packed" else count * longest
        if batches and cost <= micro_batch_tokens:
            batches[-1].append(row)
        else:
            batches.append([row])
            count, longest, total = len(size.sequences), max(size.sequences), size.tokens
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
