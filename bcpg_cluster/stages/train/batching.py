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
    OneLine,
    OneRectangle,
    Packing,
    Shape,
    TwoRectangles,
    cheapest_cuts,
    even_sums,
    forward_cost,
    runs_in_step,
)

_MOST_IN_STEP = 4096
"""Rows up to which ranks are kept in step by more than turns; of more, the ranks' turns are alike as they are."""

MicroBatch = tuple[int, ...]
"""Row indices of what one rank computes at a time, longest first; empty where it only keeps step with the others."""


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
        forwards: by micro-batch in how many forwards its sequences lie, on all ranks alike: one, or two where the longer
            sequences of its pairs have one to themselves.
    """

    num_rows: int
    divisor: int
    ranks: tuple[tuple[MicroBatch, ...], ...]
    forwards: tuple[int, ...]


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
    splits_pairs: bool = False,
) -> list[StepPlan]:
    """All optimiser steps of a round, in order.

    Every row is used exactly once per epoch; the last step of an epoch may be smaller. Epochs are shuffled
    independently of each other.

    Args:
        sizes: of each row.
        epochs: passes over the rows.
        rows_per_step: over all ranks.
        micro_batch_tokens: most tokens of a micro-batch, counted as ``packing`` says; a longer row gets one of its own.
        world_size: ranks to deal the rows to.
        seed: of the shuffles.
        divides_by_tokens: whether a step's divisor counts response tokens instead of rows.
        splits_pairs: whether the longer and the shorter sequences of pairs may have a forward each.
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
            ranks, forwards = _deal(sizes, rows, micro_batch_tokens, world_size, packing, splits_pairs)
            steps.append(StepPlan(len(rows), divisor, ranks, forwards))
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
    return _deal(sizes, rows, micro_batch_tokens, world_size, packing, splits_pairs=False)[0]


@dataclass(frozen=True, slots=True)
class _Dealt:
    """What the ranks do at once: the rows of each one's micro-batch, numbered longest first, and its forwards."""

    shares: Sequence[Sequence[int]]
    num_forwards: int


def _deal(
    sizes: Sequence[RowSize],
    rows: Sequence[int],
    budget: int,
    world_size: int,
    packing: Packing,
    splits_pairs: bool,
) -> tuple[tuple[tuple[MicroBatch, ...], ...], tuple[int, ...]]:
    """By rank its micro-batches, and by micro-batch its forwards."""
    # Longest first: what does not fit into memory fails in the first forward.
    order = sorted(rows, key=lambda row: (-max(sizes[row].sequences), -sizes[row].tokens, row))
    if not order:
        return tuple(((),) for _ in range(world_size)), (1,)
    ordered = [sizes[row] for row in order]
    dealt = _dealt_in_turn(ordered, budget, world_size, packing, splits_pairs)
    if packing == "padded" and world_size > 1 and len(rows) <= _MOST_IN_STEP:
        plans = [dealt]
        for shape in _shapes(ordered, budget, splits_pairs):
            groups = runs_in_step(len(ordered), shape, budget, world_size)
            plans.append([_Dealt([range(run.start, run.end) for run in group], shape.num_forwards) for group in groups])
        dealt = min(plans, key=lambda plan: _price(ordered, plan, budget, packing))
    of_ranks: list[list[MicroBatch]] = [[] for _ in range(world_size)]
    totals = [0] * world_size
    for each in dealt:
        tokens = [_computed([ordered[index] for index in share], each.num_forwards, packing) for share in each.shares]
        # The rank that has had least so far takes the largest share: a step is even, too, where nothing waits within it.
        ranks = sorted(range(world_size), key=lambda rank: totals[rank])
        largest = sorted(range(len(each.shares)), key=lambda share: -tokens[share])
        for rank, share in zip_longest(ranks, largest):
            of_ranks[rank].append(() if share is None else tuple(order[index] for index in each.shares[share]))
            totals[rank] += 0 if share is None else tokens[share]
    return tuple(map(tuple, of_ranks)), tuple(each.num_forwards for each in dealt)


def _dealt_in_turn(
    rows: Sequence[RowSize], budget: int, world_size: int, packing: Packing, splits_pairs: bool
) -> list[_Dealt]:
    """Turns of one row a rank, cut the cheapest way. Packed, the rows of a cut are dealt so that the ranks' sums are alike."""
    turns = [rows[start : start + world_size] for start in range(0, len(rows), world_size)]
    if packing == "packed":
        shapes: list[Shape] = [OneLine([max(row.tokens for row in turn) for turn in turns])]
    else:
        shapes = _shapes([_largest(turn) for turn in turns], budget, splits_pairs)
    dealt = []
    for run in cheapest_cuts(len(turns), shapes, budget):
        first, end = run.start * world_size, min(run.end * world_size, len(rows))
        if packing == "packed":
            sums = even_sums([row.tokens for row in rows[first:end]], world_size)
            shares: list[Sequence[int]] = [[first + index for index in share] for share in sums]
        else:
            shares = [range(first + rank, end, world_size) for rank in range(world_size)]
        dealt.append(_Dealt(shares, run.shape.num_forwards))
    return dealt


def _largest(turn: Sequence[RowSize]) -> RowSize:
    """A row as large as any of the turn, by its longest and its shortest sequence."""
    most_sequences = max(len(row.sequences) for row in turn)
    of_each = [[extreme(row.sequences) for row in turn] for extreme in (max, min)]
    return RowSize(tuple(map(max, of_each[:most_sequences])), 0)


def _shapes(rows: Sequence[RowSize], budget: int, splits_pairs: bool) -> list[Shape]:
    """The shapes that a padded micro-batch of the rows may have."""
    most_sequences = max(len(row.sequences) for row in rows)
    shapes: list[Shape] = [OneRectangle([most_sequences * max(row.sequences) for row in rows])]
    if splits_pairs:
        longer, shorter = ([extreme(row.sequences) for row in rows] for extreme in (max, min))
        shapes.append(TwoRectangles(longer, shorter, budget))
    return shapes


def _price(rows: Sequence[RowSize], plan: Sequence[_Dealt], budget: int, packing: Packing) -> int:
    """What a plan costs, in tokens: of the slowest rank each time, and a price a forward."""
    return sum(
        max(_computed([rows[index] for index in share], each.num_forwards, packing) for share in each.shares)
        + each.num_forwards * forward_cost(budget)
        for each in plan
    )


def _computed(rows: Sequence[RowSize], num_forwards: int, packing: Packing) -> int:
    """Tokens that a micro-batch computes, padding included."""
    if not rows:
        return 0
    if packing == "packed":
        return sum(row.tokens for row in rows)
    if num_forwards == 2:
        return sum(len(rows) * max(extreme(row.sequences) for row in rows) for extreme in (max, min))
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
