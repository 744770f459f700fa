"""tests/loopback_server.py: a server that has accepted nothing yet loses no connection."""

from __future__ import annotations

import socket
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler

from tests.loopback_server import LoopbackServer


def test_a_hundred_connections_wait_for_a_server_that_is_not_there_yet():
    with ExitStack() as open_:
        server = open_.enter_context(LoopbackServer(("127.0.0.1", 0), BaseHTTPRequestHandler))
        for _ in range(100):  # with the usual five, the seventh waits for ever
            open_.enter_context(socket.create_connection(server.server_address, timeout=20))
