"""Who trains on which rows when: the whole plan of a round's training, made before its first step.

A plan is a pure function of the rows' lengths, so every rank computes the same one without talking, and a training
that stopped resumes with exactly the batches it had left.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np

Packing = Literal["padded", "packed"]
"""What a forward's tokens cost: a rectangle (sequences x longest), or their sum."""

FORWARD_COST = 1 / 16
"""What one more forward and backward costs, in full micro-batches, beside its tokens (docs/decisions.md, 2026-11-29)."""

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
    """Deal rows to ranks and cut them into micro-batches, so that little is padding and no rank waits long for another.

    Sorted by length, the rows are dealt round and round, so the ranks' k-th forwards are nearly alike: a forward may be a
    collective (ZeRO-3 gathers weights in it), and all wait for the slowest. The cuts are the cheapest there are
    (:func:`_cheapest_cuts`).

    Also the plan of a forward-only pass: the ranks' shares tile the rows.
    """
    # Longest first: what does not fit into memory fails in the first forward.
    order = sorted(rows, key=lambda row: (-max(sizes[row].sequences), -sizes[row].tokens, row))
    turns = [order[start : start + world_size] for start in range(0, len(order), world_size)]
    if packing == "packed":
        held = [max(sizes[row].tokens for row in turn) for turn in turns]
    else:
        most_sequences = max((len(sizes[row].sequences) for row in order), default=1)
        held = [most_sequences * max(sizes[turn[0]].sequences) for turn in turns]
    cuts = _cheapest_cuts(held, micro_batch_tokens, packing) if turns else [0, 0]
    return tuple(
        tuple(tuple(turn[rank] for turn in turns[start:end] if rank < len(turn)) for start, end in pairwise(cuts))
        for rank in range(world_size)
    )


def _cheapest_cuts(held: Sequence[int], budget: int, packing: Packing) -> list[int]:
    """Where to cut turns into forwards, [0, ..., number of turns], so that all forwards together cost least.

    A forward costs the tokens it computes, padding included, and ``FORWARD_COST`` of the budget for being one more. It stays
    within the budget unless it is a single turn. A dynamic programme over where the last forward begins.

    Args:
        held: by turn the tokens it adds to a forward on one rank. Packed they add up; padded, every turn of a forward holds
            as many as its first, the longest.
    """
    tokens = np.asarray(held, np.int64)
    before = np.concatenate([[0], np.cumsum(tokens)])
    cost, begins = np.zeros(len(held) + 1, np.int64), np.zeros(len(held) + 1, np.int64)
    first = 0  # the earliest turn that a forward ending here may begin with; it never moves back
    for end in range(1, len(held) + 1):
        starts = np.arange(first, end)
        computed = before[end] - before[starts] if packing == "packed" else (end - starts) * tokens[starts]
        num_too_large = int(np.count_nonzero(computed[:-1] > budget))
        first += num_too_large
        total = cost[starts] + computed
        begins[end] = first + int(np.argmin(total[num_too_large:]))
        cost[end] = total[begins[end] - starts[0]] + max(1, int(FORWARD_COST * budget))
    cuts = [len(held)]
    while cuts[-1] > 0:
        cuts.append(int(begins[cuts[-1]]))
    return cuts[::-1]


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
