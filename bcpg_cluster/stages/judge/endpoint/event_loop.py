"""An event loop in a thread of its own: what runs there can be cancelled at any point, which a blocked thread cannot."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any, TypeVar

_Result = TypeVar("_Result")
_GRACE_S = 5.0
"""Seconds that a cancelled call has to give its connection up; one that takes longer is left behind."""


class EventLoopThread:
    """Runs coroutines for other threads, each under a deadline."""

    def __init__(self, name: str) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name=name, daemon=True)
        self._thread.start()

    def run(self, call: Coroutine[Any, Any, _Result], within_s: float) -> _Result:
        """The result of ``call``.

        Raises:
            TimeoutError: it was not over within ``within_s`` seconds, whatever it was doing.
            CancelledError: the loop was closed meanwhile (of ``concurrent.futures``).
            RuntimeError: it was closed before.
        """
        within_s = min(within_s, threading.TIMEOUT_MAX - _GRACE_S)
        try:
            future = asyncio.run_coroutine_threadsafe(asyncio.wait_for(call, within_s), self._loop)
        except RuntimeError:
            call.close()
            raise
        try:
            return future.result(within_s + _GRACE_S)
        except TimeoutError:
            future.cancel()
            raise

    def close(self, last: Coroutine[Any, Any, object]) -> None:
        """Cancel what is under way, run ``last``, and end the thread. Safe to call twice."""
        if self._loop.is_closed() or not self._thread.is_alive():
            last.close()
            return
        asyncio.run_coroutine_threadsafe(self._end(last), self._loop)
        self._thread.join(_GRACE_S)
        if not self._thread.is_alive():
            self._loop.close()

    async def _end(self, last: Coroutine[Any, Any, object]) -> None:
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        closing = asyncio.gather(
            last, *others, return_exceptions=True
        )  # the process's end closes what cannot be closed
        with suppress(TimeoutError):
            await asyncio.wait_for(closing, _GRACE_S)
        self._loop.stop()
