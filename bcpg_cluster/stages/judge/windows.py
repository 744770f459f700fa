"""Which steps of a long response one call of an LLM judge asks about."""

from __future__ import annotations

from collections.abc import Sequence


def cut_windows(
    num_steps: int, *, max_steps: int | None = None, sizes: Sequence[int] = (), max_tokens: int | None = None
) -> list[tuple[int, int]]:
    """Tile steps ``0..num_steps-1`` into windows ``(first, last)``, both inclusive, in order.

    A window takes steps greedily while it keeps both limits; a step that is too long by itself is a window of its own,
    so that every step is asked about exactly once.

    Args:
        max_steps: most steps of a window; ``None`` is no limit.
        sizes: tokens of each step; needed with ``max_tokens`` alone.
        max_tokens: most tokens of the steps asked about (the steps shown before them are not counted).

    Raises:
        ValueError: a limit below 1, or other than one size a step.
    """
    if (max_steps is not None and max_steps < 1) or (max_tokens is not None and max_tokens < 1):
        raise ValueError(f"a window holds at least one step and one token, not {max_steps} and {max_tokens}")
    if max_tokens is not None and len(sizes) != num_steps:
        raise ValueError(f"{len(sizes)} sizes for {num_steps} steps")
    windows: list[tuple[int, int]] = []
    first, tokens = 0, 0
    for step in range(num_steps):
        size = sizes[step] if max_tokens is not None else 0
        is_full = max_steps is not None and step - first >= max_steps
        overflows = max_tokens is not None and tokens + size > max_tokens
        if step > first and (is_full or overflows):
            windows.append((first, step - 1))
            first, tokens = step, 0
        tokens += size
    return [*windows, (first, num_steps - 1)] if num_steps else []
