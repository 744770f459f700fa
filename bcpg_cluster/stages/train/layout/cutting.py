"""Where rows, longest first, are cut into micro-batches, and what each rank gets of one.

What a micro-batch computes depends on its shape: a rectangle of all sequences, or a line without padding. One rank's cuts are the
cheapest there are. Several ranks are kept in step: micro-batches of like size are made at the same time.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

Packing = Literal["padded", "packed"]
"""What a forward's tokens cost: a rectangle (sequences x longest), or their sum."""

FORWARD_COST = 1 / 16
"""What one more forward and backward costs, in full micro-batches, beside its tokens (docs/decisions.md, 2026-11-29)."""

Integers = NDArray[np.int64]


class Shape(Protocol):
    """How the sequences of a run of rows lie in a forward. Rows are numbered longest first."""

    def tokens(self, start: int, count: int) -> int:
        """What is computed, padding included, of ``count`` rows from ``start`` on."""
        ...

    def num_within(self, start: int, limit: int) -> int:
        """How many rows from ``start`` on compute no more than ``limit`` tokens."""
        ...

    def growing(self, start: int, count: int) -> Integers:
        """The tokens of 1, 2, ... ``count`` rows from ``start`` on."""
        ...


class Rectangle:
    """All sequences below each other, each as wide as the longest."""

    def __init__(self, row_tokens: Sequence[int]) -> None:
        """By row its longest sequence, times the sequences of a row."""
        self._row_tokens = row_tokens

    def tokens(self, start: int, count: int) -> int:
        """See :class:`Shape`."""
        return count * self._row_tokens[start]

    def num_within(self, start: int, limit: int) -> int:
        """See :class:`Shape`."""
        return min(limit // self._row_tokens[start], len(self._row_tokens) - start)

    def growing(self, start: int, count: int) -> Integers:
        """See :class:`Shape`."""
        return np.arange(1, count + 1) * self._row_tokens[start]


class Line:
    """All sequences one after the other."""

    def __init__(self, row_tokens: Sequence[int]) -> None:
        """By row the tokens of all its sequences."""
        self._before = np.concatenate([[0], np.cumsum(np.asarray(row_tokens, np.int64))])

    def tokens(self, start: int, count: int) -> int:
        """See :class:`Shape`."""
        return int(self._before[start + count] - self._before[start])

    def num_within(self, start: int, limit: int) -> int:
        """See :class:`Shape`."""
        return int(np.searchsorted(self._before, self._before[start] + limit, side="right")) - 1 - start

    def growing(self, start: int, count: int) -> Integers:
        """See :class:`Shape`."""
        return np.asarray(self._before[start + 1 : start + 1 + count] - self._before[start], np.int64)


@dataclass(frozen=True, slots=True)
class Run:
    """Neighbouring rows, from ``start`` up to ``end``, that lie in one micro-batch of ``tokens``, padding included."""

    start: int
    end: int
    tokens: int


def forward_cost(budget: int) -> int:
    """What one more forward costs, in tokens."""
    return max(1, int(FORWARD_COST * budget))


def cheapest_cuts(num_rows: int, shape: Shape, budget: int) -> list[Run]:
    """Cut rows into runs within the budget, or of a single row, so that all together cost least: tokens, and a price a forward.

    A dynamic programme over where the last run begins.
    """
    cost = np.full(num_rows + 1, np.iinfo(np.int64).max)
    begins = np.zeros(num_rows + 1, np.int64)
    cost[0] = 0
    for start in range(num_rows):
        count = max(shape.num_within(start, budget), 1)
        ends = slice(start + 1, start + 1 + count)
        total = cost[start] + shape.growing(start, count) + forward_cost(budget)
        better = total < cost[ends]
        cost[ends][better], begins[ends][better] = total[better], start
    runs, end = [], num_rows
    while end > 0:
        start = int(begins[end])
        runs.append(Run(start, end, shape.tokens(start, end - start)))
        end = start
    return runs[::-1]


def runs_in_step(num_rows: int, shape: Shape, budget: int, world_size: int) -> list[list[Run]]:
    """Cut rows into runs, and group these by size: each group is what the ranks do at once, the last may be smaller.

    For every number of groups that may pay, the runs are those of the least limit under which there are no more: their sizes
    differ little then, and within a group, of neighbours by size, none waits long for another.
    """
    least = sum(shape.tokens(row, 1) for row in range(num_rows)) // world_size  # what no grouping can do without
    number = -(-len(_runs_within(num_rows, shape, budget)) // world_size)
    best: list[list[Run]] = []
    lowest: int | None = None
    while lowest is None or least + number * forward_cost(budget) < lowest:
        low, high = 1, budget
        while low < high:
            middle = (low + high) // 2
            fits = len(_runs_within(num_rows, shape, middle)) <= number * world_size
            low, high = (low, middle) if fits else (middle + 1, high)
        runs = sorted(_runs_within(num_rows, shape, low), key=lambda run: (-run.tokens, run.start))
        groups = [runs[first : first + world_size] for first in range(0, len(runs), world_size)]
        price = sum(group[0].tokens + forward_cost(budget) for group in groups)
        if lowest is None or price < lowest:
            best, lowest = groups, price
        number += 1
    return best


def _runs_within(num_rows: int, shape: Shape, limit: int) -> list[Run]:
    """Each as long as the limit allows, of one row at least."""
    runs, start = [], 0
    while start < num_rows:
        end = start + max(shape.num_within(start, limit), 1)
        runs.append(Run(start, end, shape.tokens(start, end - start)))
        start = end
    return runs


def even_sums(tokens: Sequence[int], num_shares: int) -> list[list[int]]:
    """Deal items, largest first, so that no share holds much more than another; the indices of each share's items.

    Each goes to the share that holds least. Where dealing them in turn, as they come, happens to be better, that is done.
    """
    order = sorted(range(len(tokens)), key=lambda index: -tokens[index])
    shares: list[list[int]] = [[] for _ in range(num_shares)]
    held = [(0, share) for share in range(num_shares)]
    for index in order:
        least, share = heapq.heappop(held)
        shares[share].append(index)
        heapq.heappush(held, (least + tokens[index], share))
    in_turns = [list(range(share, len(tokens), num_shares)) for share in range(num_shares)]
    return [sorted(share) for share in min(shares, in_turns, key=lambda dealt: _largest(tokens, dealt))]


def _largest(tokens: Sequence[int], shares: Sequence[Sequence[int]]) -> int:
    return max(sum(tokens[index] for index in share) for share in shares)
