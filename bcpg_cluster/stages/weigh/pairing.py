"""Which two responses share a training row: right with wrong for DPO, one prompt's with another's for KTO.

Indices in, indices out; what is drawn depends on the seed alone. How the paper paired its DPO baseline is not known, so both
ways are options (docs/method.md).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

Pair = tuple[int, int]
"""A right response and a wrong one, each counted from 0 among its kind within the prompt."""


def one_to_one(num_right: int, num_wrong: int, cap: int, seed: int | str) -> list[Pair]:
    """Both sides shuffled and paired off: min(right, wrong, ``cap``) pairs, each response in one at most.

    Args:
        num_right, num_wrong: responses of each kind to one prompt.
        cap: most pairs.
        seed: of the shuffles.

    Returns:
        The pairs, in order of the right response.
    """
    draw = random.Random(seed)
    number = max(0, min(num_right, num_wrong, cap))
    rights = draw.sample(range(num_right), number)  # a sample's order is random too
    wrongs = draw.sample(range(num_wrong), number)
    return sorted(zip(rights, wrongs, strict=True))


def all_sampled(num_right: int, num_wrong: int, cap: int, seed: int | str) -> list[Pair]:
    """``cap`` of all right x wrong pairs, drawn without replacement; all of them where there are no more.

    A response may be in several pairs. Arguments and order as in :func:`one_to_one`.
    """
    number = num_right * num_wrong
    drawn = random.Random(seed).sample(range(number), max(0, min(number, cap)))
    return sorted(divmod(index, num_wrong) for index in drawn)


PAIRINGS: dict[str, Callable[[int, int, int, int | str], list[Pair]]] = {
    "one_to_one": one_to_one,
    "all_sampled": all_sampled,
}
"""The values of ``stages.train.objective.Dpo.pairing``."""


def mismatches(sizes: Sequence[int]) -> list[int]:
    """For every sample one of another group, different samples different ones as far as that goes.

    Samples are counted through from 0, group after group. Where no group holds more than half of them, each gets the sample
    as far ahead as the largest group is long (round the end), so every sample is taken exactly once. Otherwise the samples of
    the largest group take turns with all others, and those take the first ones of the largest group: as many different
    ones as there can be.

    Args:
        sizes: samples of each group.

    Returns:
        A sample of another group for each sample; empty where fewer than two groups hold one.
    """
    if sum(size > 0 for size in sizes) < 2:
        return []
    total, largest = sum(sizes), max(sizes)
    if 2 * largest <= total:
        return [(index + largest) % total for index in range(total)]
    start = sum(sizes[: list(sizes).index(largest)])
    inside = range(start, start + largest)
    outside = [index for index in range(total) if index not in inside]
    partner = {index: outside[turn % len(outside)] for turn, index in enumerate(inside)}
    partner |= {index: inside[turn] for turn, index in enumerate(outside)}
    return [partner[index] for index in range(total)]
