"""Ctrl-C and SIGTERM: a clean stop first, a hard one after."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console

if TYPE_CHECKING:
    from collections.abc import Callable


@contextmanager
def stop_on_signals(console: Console) -> Iterator[Callable[[], bool]]:
    """A flag that Ctrl-C (or SIGTERM) raises: the first asks for a clean stop, the second stops at once."""
    asked = False

    def ask(signum: int, frame: object) -> None:
        nonlocal asked
        if asked:
            raise KeyboardInterrupt
        asked = True
        console.print("[yellow]stopping: finishing what is under way (Ctrl-C again to stop at once)[/]")

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
