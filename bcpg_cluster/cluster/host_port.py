"""``host:port`` as text."""

from __future__ import annotations

_MAX_PORT = 65535


def parse_host_port(text: str) -> tuple[str, int]:
    """Host and port of ``host:port`` or ``[IPv6 address]:port``.

    The system's resolver takes a port above 65535 modulo 65536, so that a wrong address can reach another server.

    Raises:
        ValueError: no host, or a port that is no number from 1 to 65535.
    """
    host, _, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not host or not (port.isascii() and port.isdigit()) or not 1 <= int(port) <= _MAX_PORT:
        raise ValueError(f"{text!r} is not host:port with a port from 1 to {_MAX_PORT}")
    return host, int(port)
