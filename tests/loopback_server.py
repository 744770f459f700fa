"""An HTTP server on loopback that a busy machine does not lose calls to."""

from __future__ import annotations

from http.server import ThreadingHTTPServer


class LoopbackServer(ThreadingHTTPServer):
    """At most 128 connections wait to be accepted, not five: a later one may be reset where the accepting thread gets no
    processor, and what a test then sees is a lost engine.
    """

    request_queue_size = 128
