"""Who trains on which rows when: the whole plan of a round's training, made before its first step.

A plan is a pure function of the rows' lengths, so every rank computes the same one without talking, and a training
that stopped resumes with exactly the batches it had left.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest

import numpy as np

from bcpg_cluster.stages.train.layout.cutting import (
    Line,
    Packing,
    Rectangle,
    cheapest_cuts,
    even_sums,
    forward_cost,
    runs_in_step,
)

_MOST_IN_STEP = 4096
"""Rows up to which ranks are kept in step by more than turns; of more, the ranks' turns are alike as they are."""

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

    A forward may be a collective (ZeRO-3 gathers weights in it), so all ranks make their k-th at the same time and wait for
    the slowest: it is what the ranks' k-th micro-batches have to compute that is made alike, not their numbers of rows.

    Also the plan of a forward-only pass: the ranks' shares tile the rows.
    """
    size_of = {row: sizes[row] for row in rows}  # taken once: a table builds each when it is asked for
    # Longest first: what does not fit into memory fails in the first forward.
    order = sorted(rows, key=lambda row: (-max(size_of[row].sequences), -size_of[row].tokens, row))
    if not order:
        return tuple(((),) for _ in range(world_size))
    ordered = [size_of[row] for row in order]
    of_ranks: list[list[MicroBatch]] = [[] for _ in range(world_size)]
    totals = [0] * world_size
    for shares in _shares_at_once(ordered, micro_batch_tokens, world_size, packing):
        tokens = [_computed([ordered[index] for index in share], packing) for share in shares]
        # The rank that has had least so far takes the largest share: a step is even, too, where nothing waits within it.
        ranks = sorted(range(world_size), key=lambda rank: totals[rank])
        largest = sorted(range(len(shares)), key=lambda share: -tokens[share])
        for rank, share in zip_longest(ranks, largest):
            of_ranks[rank].append(() if share is None else tuple(order[index] for index in shares[share]))
            totals[rank] += 0 if share is None else tokens[share]
    return tuple(map(tuple, of_ranks))


_Shares = Sequence[Sequence[int]]
"""What the ranks compute at once, a micro-batch each: its rows by their numbers, longest first. There may be fewer than ranks."""


def _shares_at_once(rows: Sequence[RowSize], budget: int, world_size: int, packing: Packing) -> list[_Shares]:
    """The cheaper of two ways to have rows, sorted longest first, dealt and cut."""
    turns = [rows[start : start + world_size] for start in range(0, len(rows), world_size)]
    if packing == "packed":
        return _packed_turns(turns, budget)
    most_sequences = max(len(row.sequences) for row in rows)
    held = [most_sequences * max(row.sequences) for row in rows]
    dealt: list[_Shares] = [
        [
            range(run.start * world_size + rank, min(run.end * world_size, len(rows)), world_size)
            for rank in range(world_size)
        ]
        for run in cheapest_cuts(len(turns), Rectangle(held[::world_size]), budget)
    ]
    if world_size == 1 or len(rows) > _MOST_IN_STEP:
        return dealt
    groups = runs_in_step(len(rows), Rectangle(held), budget, world_size)
    in_step: list[_Shares] = [[range(run.start, run.end) for run in group] for group in groups]
    return min(dealt, in_step, key=lambda plan: _price(rows, plan, budget))


def _packed_turns(turns: Sequence[Sequence[RowSize]], budget: int) -> list[_Shares]:
    """Turns of one row a rank, cut the cheapest way; the rows of a cut are dealt so that the ranks' sums are alike."""
    world_size = len(turns[0])
    dealt: list[_Shares] = []
    for run in cheapest_cuts(len(turns), Line([max(row.tokens for row in turn) for turn in turns]), budget):
        rows = [row for turn in turns[run.start : run.end] for row in turn]
        sums = even_sums([row.tokens for row in rows], world_size)
        dealt.append([[run.start * world_size + index for index in share] for share in sums])
    return dealt


def _price(rows: Sequence[RowSize], plan: Sequence[_Shares], budget: int) -> int:
    """What a padded plan costs, in tokens: of the slowest rank each time, and a price a forward."""
    slowest = [max(_computed([rows[index] for index in share], "padded") for share in shares) for shares in plan]
    return sum(slowest) + len(plan) * forward_cost(budget)


def _computed(rows: Sequence[RowSize], packing: Packing) -> int:
    """Tokens that a micro-batch computes, padding included."""
    if not rows:
        return 0
    if packing == "packed":
        return sum(row.tokens for row in rows)
    return sum(len(row.sequences) for row in rows) * max(max(row.sequences) for row in rows)


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
