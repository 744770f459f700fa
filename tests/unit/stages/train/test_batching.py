"""The step plan: what holds for any rows, any budget and any number of ranks."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bcpg_cluster.stages.train.batching import RowSize, StepPlan, learning_rate, plan_training, split_rows
from bcpg_cluster.stages.train.layout.cutting import Packing


def plain(*lengths: int) -> list[RowSize]:
    """Rows without rivals, each of which has a prompt of one token."""
    return [RowSize((length,), length - 1) for length in lengths]


SIZES = st.builds(
    lambda prompt, response, rival: RowSize(
        (prompt + response, prompt + rival) if rival else (prompt + response,), response
    ),
    st.integers(1, 20),
    st.integers(1, 40),
    st.integers(0, 40),
)
PLANS = st.fixed_dictionaries(
    {
        "sizes": st.lists(SIZES, max_size=40),
        "epochs": st.integers(0, 3),
        "rows_per_step": st.integers(1, 16),
        "micro_batch_tokens": st.integers(1, 150),
        "world_size": st.integers(1, 5),
        "seed": st.integers(0, 2**32),
        "packing": st.sampled_from(["padded", "packed"]),
        "divides_by_tokens": st.booleans(),
    }
)


def rows_of(step: StepPlan) -> list[int]:
    return [row for rank in step.ranks for micro_batch in rank for row in micro_batch]


@given(PLANS)
def test_every_row_once_per_epoch(arguments: dict[str, Any]) -> None:
    plan = plan_training(**arguments)
    count, batch = len(arguments["sizes"]), arguments["rows_per_step"]
    steps_per_epoch = math.ceil(count / batch)
    assert len(plan) == arguments["epochs"] * steps_per_epoch
    for epoch in range(arguments["epochs"]):
        steps = plan[epoch * steps_per_epoch : (epoch + 1) * steps_per_epoch]
        assert sorted(row for step in steps for row in rows_of(step)) == list(range(count))
        assert all(step.num_rows == batch for step in steps[:-1])


@given(PLANS)
def test_denominator_counts_the_rows_of_all_ranks(arguments: dict[str, Any]) -> None:
    """Rows, or the response tokens of their own responses: a rival's are in no divisor."""
    for step in plan_training(**arguments):
        rows = rows_of(step)
        assert step.num_rows == len(rows) > 0
        tokens = sum(arguments["sizes"][row].response_tokens for row in rows)
        assert step.divisor == (tokens if arguments["divides_by_tokens"] else len(rows))


@given(PLANS)
def test_ranks_make_the_same_number_of_forwards(arguments: dict[str, Any]) -> None:
    for step in plan_training(**arguments):
        assert len(step.ranks) == arguments["world_size"]
        (number,) = {len(rank) for rank in step.ranks}
        assert number > 0
        assert all(any(of_ranks) for of_ranks in zip(*step.ranks, strict=True))  # none is made in vain by all


def cost(sizes: list[RowSize], packing: str) -> int:
    """What a micro-batch of these rows computes, padding included."""
    sequences = [length for size in sizes for length in size.sequences]
    return sum(sequences) if packing == "packed" else len(sequences) * max(sequences)


@given(PLANS)
def test_micro_batches_fit_and_are_sorted(arguments: dict[str, Any]) -> None:
    budget, packing = arguments["micro_batch_tokens"], arguments["packing"]
    for step in plan_training(**arguments):
        for rank in step.ranks:
            batches = [[arguments["sizes"][row] for row in batch] for batch in rank]
            for batch in batches:
                assert len(batch) <= 1 or cost(batch, packing) <= budget
                longest = [max(size.sequences) for size in batch]
                assert longest == sorted(longest, reverse=True)


LENGTHS = st.lists(st.integers(1, 60), min_size=1, max_size=9)


def cheapest_in_turn(lengths: list[int], budget: int, world_size: int, packing: Packing) -> float:
    """What the best cut costs if rows are dealt round and round and every rank has the same turns, by trying all of them, of
    which there are 2 to the power of the number of turns less one.
    """
    turns = sorted(lengths, reverse=True)[::world_size]  # by turn its longest row

    def total(bounds: Sequence[int]) -> float:
        parts = [turns[start:end] for start, end in itertools.pairwise(bounds)]
        held = [sum(part) if packing == "packed" else len(part) * part[0] for part in parts]
        fits = all(tokens <= budget or len(part) == 1 for tokens, part in zip(held, parts, strict=True))
        return sum(held) + max(1, budget // 16) * len(parts) if fits else math.inf

    between = range(1, len(turns))
    return min(
        total([0, *chosen, len(turns)])
        for count in range(len(turns))
        for chosen in itertools.combinations(between, count)
    )


def price(lengths: list[int], ranks: Sequence[Sequence[Sequence[int]]], budget: int, packing: Packing) -> int:
    """What the ranks' micro-batches cost: each the tokens of the rank that computes most, and a sixteenth of the budget."""
    sizes = plain(*lengths)
    most = [
        max(cost([sizes[row] for row in batch], packing) for batch in of_ranks if batch)
        for of_ranks in zip(*ranks, strict=True)
    ]
    return sum(most) + max(1, budget // 16) * len(most)


@given(LENGTHS, st.integers(1, 200), st.sampled_from(["padded", "packed"]))
def test_no_other_cut_of_one_rank_is_cheaper(lengths: list[int], budget: int, packing: Packing) -> None:
    ranks = split_rows(plain(*lengths), range(len(lengths)), budget, 1, packing)
    assert price(lengths, ranks, budget, packing) == cheapest_in_turn(lengths, budget, 1, packing)


@given(LENGTHS, st.integers(1, 200), st.integers(2, 4), st.sampled_from(["padded", "packed"]))
def test_ranks_in_step_take_no_longer_than_dealt_in_turn(
    lengths: list[int], budget: int, world_size: int, packing: Packing
) -> None:
    ranks = split_rows(plain(*lengths), range(len(lengths)), budget, world_size, packing)
    assert price(lengths, ranks, budget, packing) <= cheapest_in_turn(lengths, budget, world_size, packing)


def test_ranks_in_step_worked_example() -> None:
    """One rank gets the row of 100 tokens, one two of 50, one four of 25: no padding, and none waits. Dealt in turn, rows of
    50 wait for that of 100, and two more forwards follow.
    """
    lengths = [100, 50, 50, 25, 25, 25, 25]
    assert split_rows(plain(*lengths), range(7), 100, 3) == (((0,),), ((1, 2),), ((3, 4, 5, 6),))
    assert cheapest_in_turn(lengths, 100, 3, "padded") == 100 + 2 * 25 + 2 * 6
    # Packed, rows of any length share a rank's line: 100, 50 + 25 + 25 and 50 + 25 + 25.
    ranks = split_rows(plain(*lengths), range(7), 150, 3, "packed")
    assert sorted(sum(lengths[row] for row in batch) for ((*batch,),) in ranks) == [100, 100, 100]


def test_what_a_rank_had_less_of_it_gets_more_of_next() -> None:
    """9 beside 8, then 3 beside 2: the rank that had 8 takes the 3, since gradients may be reduced once a step."""
    assert split_rows(plain(3, 9, 2, 8), [0, 1, 2, 3], 9, 2) == (((1,), (2,)), ((3,), (0,)))


def test_a_cut_where_lengths_jump() -> None:
    """Nine rows of 10 tokens beside one of 100: a rectangle of all would be 1000 tokens for 190."""
    assert split_rows(plain(100, *[10] * 9), range(10), 1024, 1) == (((0,), tuple(range(1, 10))),)
    assert split_rows(plain(100, *[93] * 9), range(10), 1024, 1) == (
        ((*range(10),),),
    )  # 64 for a forward, 63 for padding
    assert split_rows(plain(100, *[93] * 9), range(10), 999, 1) == (((0,), tuple(range(1, 10))),)


@given(PLANS)
def test_plan_is_deterministic(arguments: dict[str, Any]) -> None:
    assert plan_training(**arguments) == plan_training(**arguments)


@given(PLANS)
def test_what_a_step_holds_does_not_depend_on_ranks_or_budget(arguments: dict[str, Any]) -> None:
    other = {**arguments, "world_size": 1, "micro_batch_tokens": 10**6}
    for one, another in zip(plan_training(**arguments), plan_training(**other), strict=True):
        assert sorted(rows_of(one)) == sorted(rows_of(another))


@given(st.lists(SIZES, max_size=40), st.integers(1, 150), st.integers(1, 5))
def test_a_forward_only_pass_tiles_the_rows(sizes: list[RowSize], budget: int, world_size: int) -> None:
    shares = split_rows(sizes, range(len(sizes)), budget, world_size)
    assert sorted(row for share in shares for batch in share for row in batch) == list(range(len(sizes)))
    assert len({len(share) for share in shares}) == 1


def test_worked_example() -> None:
    """Lengths 9 8 3 2 over two ranks: 9 beside 8 and 3 beside 2; in one forward 3 would be padded to 9."""
    assert split_rows(plain(3, 9, 2, 8), [0, 1, 2, 3], 8, 2) == (((1,), (2,)), ((3,), (0,)))
    assert split_rows(plain(8, 9, 8, 8), [0, 1, 2, 3], 18, 2) == (((1, 2),), ((0, 3),))
    assert split_rows(plain(5, 5, 5), [0, 1, 2], 5, 2) == (((0,), (2,)), ((1,), ()))


def test_worked_example_of_a_packed_forward() -> None:
    """9 + 2 + 2 fit into 13 tokens side by side; a rectangle would take 27, two forwards take 9 + 4."""
    assert split_rows(plain(9, 2, 2), [0, 1, 2], 13, 1, "packed") == (((0, 1, 2),),)
    assert split_rows(plain(9, 2, 2), [0, 1, 2], 12, 1, "packed") in ((((0, 1), (2,)),), (((0,), (1, 2)),))
    assert split_rows(plain(9, 2, 2), [0, 1, 2], 30, 1) == (((0,), (1, 2)),)


def test_worked_example_of_pairs() -> None:
    """A rival is a further row of the rectangle, and may be its longest: (6, 4) and (3, 5) are 4 x 6 = 24 or 18 tokens."""
    pairs = [RowSize((6, 4), 2), RowSize((3, 5), 1)]
    assert split_rows(pairs, [0, 1], 64, 1) == (((0, 1),),)  # 24 tokens, or 12 + 10 and 4 for one more forward
    assert split_rows(pairs, [0, 1], 23, 1) == (((0,), (1,)),)
    assert split_rows(pairs, [0, 1], 18, 1, "packed") == (((0, 1),),)
    assert split_rows(pairs, [0, 1], 17, 1, "packed") == (((0,), (1,)),)
    (step,) = plan_training(
        pairs, epochs=1, rows_per_step=2, micro_batch_tokens=99, world_size=1, seed=0, divides_by_tokens=True
    )
    assert (step.num_rows, step.divisor) == (2, 3)


def test_epochs_and_seeds_are_shuffled_differently() -> None:
    def orders(seed: int) -> list[list[int]]:
        plan = plan_training(
            plain(*[4] * 32), epochs=2, rows_per_step=4, micro_batch_tokens=16, world_size=1, seed=seed
        )
        return [[row for step in plan[start : start + 8] for row in sorted(rows_of(step))] for start in (0, 8)]

    assert orders(0)[0] != orders(0)[1]
    assert orders(0) != orders(1)


def test_plan_refuses_nonsense() -> None:
    with pytest.raises(ValueError, match="world_size=0"):
        plan_training(plain(1), epochs=1, rows_per_step=1, micro_batch_tokens=1, world_size=0, seed=0)


def test_learning_rate_worked_example() -> None:
    rates = [learning_rate(step, 9, peak=4.0, minimum=2.0, warmup_ratio=0.4) for step in range(9)]
    assert rates[:4] == [1.0, 2.0, 3.0, 4.0]  # four of nine steps warm up
    assert rates[4:] == pytest.approx([4.0, 3.0 + math.sqrt(0.5), 3.0, 3.0 - math.sqrt(0.5), 2.0])


@given(st.integers(1, 200), st.floats(0, 1), st.floats(0, 1), st.data())
def test_learning_rate_bounds(num_steps: int, ratio: float, warmup: float, data: st.DataObject) -> None:
    peak = 1e-3
    minimum = ratio * peak
    rates = [learning_rate(s, num_steps, peak=peak, minimum=minimum, warmup_ratio=warmup) for s in range(num_steps)]
    assert all(0 < rate <= peak * (1 + 1e-12) for rate in rates) or minimum == 0
    top = math.ceil(warmup * num_steps)
    assert rates[:top] == sorted(rates[:top])
    assert rates[top:] == sorted(rates[top:], reverse=True)
    if top < num_steps - 1:
        assert rates[-1] == pytest.approx(minimum, abs=1e-12)
    with pytest.raises(ValueError, match="step"):
        learning_rate(num_steps, num_steps, peak=peak, minimum=minimum, warmup_ratio=warmup)
