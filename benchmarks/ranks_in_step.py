"""How long do ranks wait for one another inside a step? By the step plan's own count, nothing is trained.

A forward may be a collective, so the ranks' k-th micro-batches take as long as the largest of them. *Waiting* is the share of the
ranks' time in which they have finished theirs, by tokens computed; *padding* is the share of what is computed that is padding;
*cost* is what the step takes against rows without padding dealt out evenly: tokens of the slowest rank and a sixteenth of the
budget for each forward. Each is given for the plan and for one that deals the rows in turn, longest first, with the same cuts
on all ranks, as it was before.

    python benchmarks/ranks_in_step.py [--ranks 8] [--sequences 64 512] [--budgets 4096 16384] [--repeats 20] [--json FILE]
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from drawn_lengths import LENGTHS, drawn_lengths
from measure import argument_parser, facts, finish, summarise

from bcpg_cluster.stages.train.batching import RowSize, split_rows
from bcpg_cluster.stages.train.layout.cutting import FORWARD_COST, Rectangle, cheapest_cuts

Ranks = Sequence[Sequence[Sequence[int]]]
"""By rank and micro-batch the indices of its rows."""


@dataclass(frozen=True, slots=True)
class Shares:
    """What a plan costs; see the module."""

    waiting: float
    padding: float
    cost: float


def shares(lengths: Sequence[int], ranks: Ranks, budget: int) -> Shares:
    """Of a padded plan for rows of these lengths."""
    slowest = computed = 0
    for of_ranks in zip(*ranks, strict=True):
        areas = [len(rows) * max((lengths[row] for row in rows), default=0) for rows in of_ranks]
        slowest += max(areas)
        computed += sum(areas)
    took = slowest + FORWARD_COST * budget * len(ranks[0])
    return Shares(1 - computed / (slowest * len(ranks)), 1 - sum(lengths) / computed, took * len(ranks) / sum(lengths))


def in_step(lengths: Sequence[int], budget: int, num_ranks: int) -> Ranks:
    """The step plan's."""
    return split_rows([RowSize((length,), 1) for length in lengths], range(len(lengths)), budget, num_ranks)


def in_turn(lengths: Sequence[int], budget: int, num_ranks: int) -> Ranks:
    """Rows dealt round and round, longest first; every rank has the same turns in a micro-batch."""
    order = sorted(range(len(lengths)), key=lambda row: -lengths[row])
    turns = [order[start : start + num_ranks] for start in range(0, len(order), num_ranks)]
    runs = cheapest_cuts(len(turns), Rectangle([lengths[turn[0]] for turn in turns]), budget)
    return [
        [[turn[rank] for turn in turns[run.start : run.end] if rank < len(turn)] for run in runs]
        for rank in range(num_ranks)
    ]


def main() -> None:
    parser = argument_parser(__doc__, repeats=20)
    parser.add_argument("--ranks", type=int, default=8)
    parser.add_argument("--sequences", type=int, nargs="+", default=[64, 512], help="of a step, over all ranks")
    parser.add_argument("--budgets", type=int, nargs="+", default=[4096, 16384])
    parser.add_argument("--longest", type=int, default=4096)
    options = parser.parse_args()
    started = facts()
    plans: dict[str, Callable[[Sequence[int], int, int], Ranks]] = {"in turn": in_turn, "in step": in_step}
    results: dict[str, Any] = {}
    for kind in LENGTHS:
        for number in options.sequences:
            rng = random.Random(options.seed)
            drawn = [drawn_lengths(kind, number, options.longest, rng) for _ in range(options.repeats)]
            for budget in options.budgets:
                for name, plan in plans.items():
                    found = [shares(lengths, plan(lengths, budget, options.ranks), budget) for lengths in drawn]
                    for share in ("waiting", "padding", "cost"):
                        values = [getattr(each, share) for each in found]
                        results[f"{kind}, {number} sequences, budget {budget}: {share}, {name}"] = summarise(values)
    finish(
        f"what {options.ranks} ranks wait for one another within a step, and what the step costs",
        results,
        settings={"ranks": options.ranks, "longest": options.longest, "seed": options.seed},
        json_file=options.json,
        started=started,
    )


if __name__ == "__main__":
    main()
