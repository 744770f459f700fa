"""The learning rate of a step."""

from __future__ import annotations

import math


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
