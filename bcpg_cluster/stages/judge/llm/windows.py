"""Which steps of a long response one call of an LLM judge asks about."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

Window = tuple[int, int]
"""First and last step, both inclusive."""


@dataclass(frozen=True, slots=True)
class WindowLimits:
    """How much of a long response one call of the ``full`` view asks about; ``None`` is no limit.

    Attributes:
        steps: most steps of a window (8 to 16 suit instruct models).
        tokens: most tokens of the steps asked about; a longer step gets a window of its own.
        looks_ahead: a window also shows the steps after it. Otherwise it shows steps 0 to its last.
    """

    steps: int | None = None
    tokens: int | None = None
    looks_ahead: bool = False

    def __str__(self) -> str:
        """Short, for a judge's version: ``w8x0`` is 8 steps and any number of tokens."""
        return f"w{self.steps or 0}x{self.tokens or 0}{'+' if self.looks_ahead else ''}"


WHOLE: Final = WindowLimits()  # a response is one window


def cut_windows(
    num_steps: int, *, max_steps: int | None = None, sizes: Sequence[int] = (), max_tokens: int | None = None
) -> list[Window]:
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
    windows: list[Window] = []
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


def needed_windows(windows: Sequence[Window], wanted: frozenset[int] | None, *, in_turn: bool) -> list[Window]:
    """The windows to ask about, so that every wanted step gets the answer it would get if all were asked.

    Args:
        windows: of one response, in order.
        wanted: the steps that matter; ``None`` is all.
        in_turn: a window is told what those before it found, so these are needed with it.
    """
    if wanted is None:
        return list(windows)
    holds = [any(first <= step <= last for step in wanted) for first, last in windows]
    return [window for index, window in enumerate(windows) if (any(holds[index:]) if in_turn else holds[index])]


def unneeded_windows(windows: Sequence[Window], wanted: frozenset[int] | None, *, in_turn: bool) -> list[Window]:
    """The others."""
    needed = set(needed_windows(windows, wanted, in_turn=in_turn))
    return [window for window in windows if window not in needed]
