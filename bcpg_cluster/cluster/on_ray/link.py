"""Whether what this driver cannot do without still answers: the cluster's head, and Ray's process on the driver's own node.

Ray lets a driver wait a minute for a lost head, then ends its process mid-call. When the driver's own node is lost, Ray ends the
run's members on all nodes, takes calls of the driver as before, and starts nothing: to it the driver is gone. Another node with
members is not watched here: it may come back, and its members are replaced meanwhile.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from dataclasses import dataclass
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


_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])  # RFC 9113, with empty settings


def replies(address: str, timeout_s: float = 2.0) -> bool:
    """Whether a server of gRPC at ``host:port`` greets back. The kernel takes connections for a stopped one too."""
    try:
        with socket.create_connection(parse_host_port(address), timeout=timeout_s) as connection:
            connection.sendall(_PREFACE)
            connection.recv(1)
            return True
    except (OSError, ValueError):
        return False


@dataclass(frozen=True, slots=True)
class Watched:
    """What a link watches: ``host:port``, and what it is called in the error."""

    address: str
    name: str


def head(address: str) -> Watched:
    """The cluster's head."""
    return Watched(address, f"its head at {address}")


def own_node(address: str) -> Watched:
    """Ray's process on the node of this driver."""
    return Watched(address, f"the raylet of this command's own node at {address}")


class Link:
    """Fails every call under way, and every later one, once something it watches has been silent for ``patience_s``.

    Args:
        patience_s: below Ray's own minute, and long enough for a head that is restarted where Ray is set up for that.
        on_lost: called once, in the watching thread, after the calls have failed.
        look: whether what is at an address answers now.
    """

    def __init__(
        self,
        *watched: Watched,
        patience_s: float = 30.0,
        every_s: float = 2.0,
        on_lost: Callable[[ClusterLostError], None] = lambda error: None,
        look: Callable[[str], bool] = replies,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._patience_s, self._look, self._clock = patience_s, look, clock
        self._on_lost = on_lost
        self._lock = threading.Lock()
        self._under_way: set[Future[Any]] = set()
        self._error: ClusterLostError | None = None
        self._heard = dict.fromkeys(watched, clock())
        self._ended = threading.Event()
        self._watcher = threading.Thread(target=self._watch, args=(every_s,), name="cluster-link", daemon=True)

    def start(self) -> None:
        """Start checking, in a thread."""
        self._watcher.start()

    @property
    def is_lost(self) -> bool:
        """Whether the cluster was given up. It stays so."""
        return self._error is not None

    def raise_if_lost(self) -> None:
        """Raises :class:`ClusterLostError` once the cluster was given up."""
        if self._error is not None:
            raise self._error

    def watch_over(self, answer: Future[Any]) -> None:
        """Have ``answer`` fail with :class:`ClusterLostError` when the cluster is lost before it comes."""
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
        """One check; gives the cluster up when something has been silent for too long."""
        for watched in self._heard:
            if self._look(watched.address):
                self._heard[watched] = self._clock()
            elif self._clock() - self._heard[watched] > self._patience_s and self._error is None:
                self._give_up(watched)

    def _give_up(self, watched: Watched) -> None:
        error = ClusterLostError(
            f"the Ray cluster is lost: {watched.name} has not answered for {self._patience_s:.0f} s"
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
