"""A server on loopback that keeps its clients waiting: bytes that come one by one, replies without an end."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import suppress

DRIPS_AT_MOST = 3000
"""After these the server closes: what waited so long has no deadline. About a minute, at a drip every 20 ms."""
_BETWEEN_DRIPS_S = 0.02

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 1000000000\r\n\r\n"
ENDLESS_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\r\n"


class DripServer:
    """Says ``at_once`` to every request, then ``again`` over and over.

    Args:
        is_fast: without a pause, as fast as the client reads.
    """

    def __init__(self, at_once: bytes, again: bytes, *, is_fast: bool = False) -> None:
        self._at_once, self._again, self._is_fast = at_once, again, is_fast
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self.num_requests = self.most_drips = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}/v1"
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with suppress(OSError):
            while True:
                threading.Thread(target=self._answer, args=(self._listener.accept()[0],), daemon=True).start()

    def _answer(self, client: socket.socket) -> None:
        with client, suppress(OSError):
            client.recv(65536)
            with self._lock:
                self.num_requests += 1
            client.sendall(self._at_once)
            for number in self._beats():
                client.sendall(self._again)
                with self._lock:
                    self.most_drips = max(self.most_drips, number)

    def _beats(self) -> Iterator[int]:
        number = 0
        while self._is_fast or number < DRIPS_AT_MOST:
            if self._stop.wait(0.0 if self._is_fast else _BETWEEN_DRIPS_S):
                return
            number += 1
            yield number

    def close(self) -> None:
        self._stop.set()
        self._listener.close()
