"""Whether the cluster's head still answers. Ray lets a driver wait a minute for a lost head, then ends its process mid-call."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from typing import Any

from bcpg_cluster.cluster.host_port import parse_host_port
from bcpg_cluster.errors import ClusterLostError


def answers(address: str, timeout_s: float = 2.0) -> bool:
    """Whether something listens at ``host:port``."""
    try:
        with socket.create_connection(parse_host_port(address), timeout=timeout_s):
            return True
    except (OSError, ValueError):
        return False


class Link:
    """Fails every call under way, and every later one, once the head has been silent for ``patience_s``.

    Args:
        address: ``host:port`` of the head.
        patience_s: below Ray's own minute, and long enough for a head that is restarted where Ray is set up for that.
        on_lost: called once, in the watching thread, after the calls have failed.
        look: whether the head answers now.
    """

    def __init__(
        self,
        address: str,
        *,
        patience_s: float = 30.0,
        every_s: float = 2.0,
        on_lost: Callable[[ClusterLostError], None] = lambda error: None,
        look: Callable[[str], bool] = answers,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._address, self._patience_s, self._look, self._clock = address, patience_s, look, clock
        self._on_lost = on_lost
        self._lock = threading.Lock()
        self._under_way: set[Future[Any]] = set()
        self._error: ClusterLostError | None = None
        self._heard = clock()
        self._ended = threading.Event()
        self._watcher = threading.Thread(target=self._watch, args=(every_s,), name="cluster-link", daemon=True)

    def start(self) -> None:
        """Start checking, in a thread."""
        self._watcher.start()

    @property
    def is_lost(self) -> bool:
        """Whether the head was given up. It stays so."""
        return self._error is not None

    def raise_if_lost(self) -> None:
        """Raises :class:`ClusterLostError` once the head was given up."""
        if self._error is not None:
            raise self._error

    def watch_over(self, answer: Future[Any]) -> None:
        """Have ``answer`` fail with :class:`ClusterLostError` when the head is lost before it comes."""
        with self._lock:
            if self._error is None:
                self._under_way.add(answer)
        if self._error is not None:
            _fail(answer, self._error)
        else:
            answer.add_done_callback(self._forget)

    def _forget(self, answer: Future[Any]) -> None:
        with self._lock:
            self._under_way.discard(answer)

    def look_now(self) -> None:
        """One check; gives the head up when it has been silent for too long."""
        if self._look(self._address):
            self._heard = self._clock()
        elif self._clock() - self._heard > self._patience_s and self._error is None:
            error = ClusterLostError(
                f"the Ray cluster is lost: its head at {self._address} has not answered for {self._patience_s:.0f} s"
            )
            with self._lock:
                self._error, failing = error, list(self._under_way)
                self._under_way.clear()
            for answer in failing:
                _fail(answer, error)
            self._on_lost(error)

    def _watch(self, every_s: float) -> None:
        while not self._ended.wait(every_s) and not self.is_lost:
            self.look_now()

    def close(self) -> None:
        """Stop checking."""
        self._ended.set()


def _fail(answer: Future[Any], error: Exception) -> None:
    with suppress(InvalidStateError):  # it came after all
        answer.set_exception(error)
