"""Faults that fakes make on purpose: latency, failures and the end of their process, at the calls a test names."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

from bcpg_cluster.errors import EngineError

LATENCY = "BCPG_FAKE_LATENCY_S"
DIES_AT = "BCPG_FAKE_DIES_AT"


@dataclass(frozen=True, slots=True)
class Faults:
    """What goes wrong, on purpose.

    Attributes:
        latency_s: every call takes at least this long.
        fail_on_call: the n-th call (from 1) raises EngineError, and only that one.
        output: every generation is ``garbage`` (characters of no format), ``empty`` (the end token alone), ``endless``
            (no end token before the limit) or ``aborted``.
        dies_at: a call about a prompt or response that holds this text kills the process; empty for none.
    """

    latency_s: float = 0.0
    fail_on_call: int | None = None
    output: Literal["garbage", "empty", "endless", "aborted"] | None = None
    dies_at: str = ""


def slowed(output: Literal["garbage", "empty", "endless", "aborted"] | None = None) -> Faults:
    """Faults as a pool's ``env`` says: ``BCPG_FAKE_LATENCY_S``, and ``BCPG_FAKE_DIES_AT`` for :attr:`Faults.dies_at`."""
    return Faults(latency_s=float(os.environ.get(LATENCY, "0")), output=output, dies_at=os.environ.get(DIES_AT, ""))


class _CallCounter:
    """Applies :class:`Faults` to calls, and counts the requests under way."""

    def __init__(self, faults: Faults) -> None:
        self._faults = faults
        self._lock = threading.Lock()
        self._num_calls = 0
        self._num_running = 0
        self._is_closed = False

    @contextmanager
    def call(self, num_requests: int, texts: Iterable[str] = ()) -> Iterator[None]:
        if self._faults.dies_at and any(self._faults.dies_at in text for text in texts):
            os.kill(os.getpid(), signal.SIGKILL)
        with self._lock:
            if self._is_closed:
                raise EngineError("the engine is closed")
            self._num_calls += 1
            self._num_running += num_requests
            is_failing = self._num_calls == self._faults.fail_on_call
        try:
            time.sleep(self._faults.latency_s)
            if is_failing:
                raise EngineError(f"call {self._faults.fail_on_call} fails, as it was told to")
            yield
        finally:
            with self._lock:
                self._num_running -= num_requests

    @property
    def num_running(self) -> int:
        return self._num_running

    def close(self) -> None:
        self._is_closed = True
