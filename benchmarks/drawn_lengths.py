"""Lengths of drawn sequences, prompt included, that the trainers' benchmarks share."""

from __future__ import annotations

import random

LENGTHS = ("equal", "mixed", "tail")


def drawn_lengths(kind: str, number: int, longest: int, rng: random.Random) -> list[int]:
    """``equal``: all a quarter of ``longest``. ``mixed``: evenly from an eighth of it up. ``tail``: log-normal around a fifth of
    it, sigma 0.8, cut at ``longest``, as responses of reasoning models are spread.
    """
    if kind == "equal":
        return [longest // 4] * number
    if kind == "mixed":
        return [rng.randint(longest // 8, longest) for _ in range(number)]
    return [min(max(int(rng.lognormvariate(0.0, 0.8) * longest / 5), longest // 12), longest) for _ in range(number)]
