"""Ctrl-C and SIGTERM: a clean stop first, a hard one after, and the end of the process whatever holds it."""

from __future__ import annotations

import os
import select
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console

if TYPE_CHECKING:
    from collections.abc import Callable

PATIENCE_S = 5.0
"""Seconds that the process has to end by itself after the second signal."""
_TELL_WITHIN_S = 1.0
_STOPPED = 130
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def stop_on_signals(console: Console) -> Iterator[Callable[[], bool]]:
    """A flag that Ctrl-C (or SIGTERM) raises: the first asks for a clean stop, the second stops at once. A process that has not
    ended ``PATIENCE_S`` later (it may wait inside a library), or at the third, is ended by force.
    """
    asked = False

    def ask(signum: int, frame: object) -> None:
        nonlocal asked
        if asked:
            raise KeyboardInterrupt
        asked = True

    told = threading.Event()

    def tell() -> None:
        """From a thread: the handler may have come into the middle of a write, and a stream's buffer takes no second one."""
        console.print("[yellow]stopping: finishing what is under way (Ctrl-C again to stop at once)[/]")
        told.set()

    ends = socket.socketpair()
    for end in ends:
        end.setblocking(False)
    wakeup = ends[
        1
    ].detach()  # a number: as a socket it would be closed with this generator, and the next signal be lost
    threading.Thread(target=_end_on_the_second, args=(ends[0], tell), name="signals", daemon=True).start()
    before = {number: signal.signal(number, ask) for number in _SIGNALS}
    woken_before = signal.set_wakeup_fd(wakeup, warn_on_full_buffer=False)
    try:
        yield lambda: asked
    finally:
        if asked:
            told.wait(_TELL_WITHIN_S)
        else:  # asked, the next signal still ends the process, whatever keeps it
            signal.set_wakeup_fd(woken_before)
            for number, handler in before.items():
                signal.signal(number, handler)
            os.close(wakeup)


def _end_on_the_second(wakes: socket.socket, tell: Callable[[], None]) -> None:
    """Count signals where no call of the main thread can hold it, and tell of the first; returns when the other end is closed."""
    num_signals = 0
    while num_signals < 3:
        patience_s = PATIENCE_S if num_signals == 2 else None
        if not select.select([wakes], [], [], patience_s)[0]:
            break
        received = wakes.recv(64)
        if not received:
            wakes.close()
            return
        is_first = num_signals == 0
        num_signals += sum(number in _SIGNALS for number in received)
        if is_first and num_signals:
            threading.Thread(target=tell, name="told of a signal", daemon=True).start()  # it may wait for the stream
    print("ended by force; what was finished is kept. Run the same command again to resume.", file=sys.stderr)
    sys.stderr.flush()
    os._exit(_STOPPED)
