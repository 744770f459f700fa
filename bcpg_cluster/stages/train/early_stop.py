"""When training should end before its plan does: the right responses become less and less likely."""

from __future__ import annotations

from collections.abc import Sequence


def falls_without_end(deltas: Sequence[float | None], limit_nats: float, window: int) -> bool:
    """Whether the right responses' drift lies far below zero and still falls.

    Nothing bounds the push on wrong responses from below, and it drags along what right ones share with them; where the
    right responses' own log-prob goes down step after step, more steps make it worse (docs/method.md, the traps).

    Args:
        deltas: mean lp - lp_ref per token of right responses in nats, one per step; ``None`` for a step without any.
        limit_nats: how far below zero is tolerated; 0 never stops.
        window: steps per mean, at least 1.

    Returns:
        True when there are at least ``2 * window`` steps, and the mean over the last ``window`` of them lies below
        ``-limit_nats`` and below the mean over the ``window`` before. Steps of ``None`` are left out of both means; a
        window of nothing else decides nothing.
    """
    if window < 1:
        raise ValueError(f"window {window}: at least one step")
    if limit_nats <= 0 or len(deltas) < 2 * window:
        return False
    last, before = _mean(deltas[-window:]), _mean(deltas[-2 * window : -window])
    return last is not None and before is not None and last < -limit_nats and last < before


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
