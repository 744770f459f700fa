"""How each call under way in a member gets on: work marks its progress, heartbeats carry it to the pool.

The thread that works on a lease marks every piece that is finished (a response, a verdict, a step of the engine)::

    work = present_work()
    for reply in replies:
        work.mark()

Where no lease is under way (tests, commands without pools) marks go nowhere.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar


class Progress:
    """When a call last got on. Any thread may mark it."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._last = clock()

    def mark(self) -> None:
        """Another piece is done. Cheap."""
        self._last = self._clock()

    def idle_s(self) -> float:
        """Seconds since the last mark, or since the call began."""
        return self._clock() - self._last


_present: ContextVar[Progress] = ContextVar("the call that this thread works on")


def present_work() -> Progress:
    """The call that this thread works on. Give it to threads that work for it: they have none of their own."""
    return _present.get(None) or Progress()


class CallsUnderWay:
    """The calls that a member works on now, by label."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._guard = threading.Lock()
        self._calls: list[tuple[str, Progress]] = []

    @contextmanager
    def doing(self, label: str) -> Iterator[Progress]:
        """Within it, this thread works on the call of that label."""
        call = label, Progress(self._clock)
        token = _present.set(call[1])
        with self._guard:
            self._calls.append(call)
        try:
            yield call[1]
        finally:
            with self._guard:
                self._calls.remove(call)
            _present.reset(token)

    def idle_s(self) -> Mapping[str, float]:
        """Seconds since each call last got on."""
        with self._guard:
            return {label: progress.idle_s() for label, progress in self._calls}
