"""An endpoint that keeps its callers waiting: the real client against servers on loopback that never come to an end.

None of these tests measures time. A server drips some thousand times; that a test ends before says that the client gave up.
"""

from __future__ import annotations

import gzip
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from bcpg_cluster.records import VerdictStatus
from bcpg_cluster.stages.judge.endpoint import http_client
from bcpg_cluster.stages.judge.endpoint.openai_transport import OpenAiTransport
from bcpg_cluster.stages.judge.endpoint.rate_limit import RateLimiter, RateLimits
from bcpg_cluster.stages.judge.endpoint.settings import Endpoint
from bcpg_cluster.stages.judge.llm.transport import Ask, Reply
from tests.drip_server import DRIPS_AT_MOST, ENDLESS_HEAD, HEAD, DripServer
from tests.judge_server import Server, completion, fails, raw, sends

ASK = Ask(({"role": "user", "content": "1+1?"},))


@pytest.fixture
def drips() -> Iterator[Callable[..., DripServer]]:
    made: list[DripServer] = []

    def make(at_once: bytes, again: bytes, **options: Any) -> DripServer:
        made.append(DripServer(at_once, again, **options))
        return made[-1]

    yield make
    for server in made:
        server.close()


@pytest.fixture
def server() -> Iterator[Server]:
    one = Server()
    yield one
    one.close()


def only_reply(url: str, clock: Any = None, **settings: Any) -> Reply:
    options = {} if clock is None else {"clock": clock.now, "wall_clock": clock.now, "sleep": clock.sleep}
    transport = OpenAiTransport(
        Endpoint(url, "m", **({"max_retries": 0} | settings)), RateLimits(), jitter=lambda: 0.0, **options
    )
    try:
        ((_, reply),) = transport.answers([ASK])
        return reply
    finally:
        transport.close()


# --- one try ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("at_once", "again"),
    [
        (HEAD, b" "),
        (ENDLESS_HEAD, b"\n"),
        (b"HTTP/1.1 200 OK\r\nx-slow: ", b"a"),
        (b"HTTP/1.1 200 OK\r\n", b"x: y\r\n"),
        (b"HTTP/1.1 307 Temporary Redirect\r\nlocation: /v1/chat/completions\r\ncontent-length: 0\r\n\r\n", b"a"),
        (b"HTTP/1.1 307 Temporary Redirect\r\nlocation: /elsewhere\r\ncontent-length: 100000\r\n\r\n", b"a"),
        (b"HTTP/1.1 500 Broken\r\ncontent-type: application/json\r\ncontent-length: 100000\r\n\r\n", b"a"),
        (ENDLESS_HEAD.replace(b"json\r\n", b"json\r\ntransfer-encoding: chunked\r\n"), b"1\r\n \r\n"),
    ],
    ids=["body", "body without a length", "a header", "headers", "redirects", "a redirect's body", "a 500", "chunks"],
)
def test_bytes_that_drip_do_not_prolong_a_try(at_once: bytes, again: bytes, drips: Callable[..., DripServer]) -> None:
    server = drips(at_once, again)
    reply = only_reply(server.url, timeout_s=0.5)
    assert reply.failure in (VerdictStatus.TIMEOUT, VerdictStatus.ENGINE_LOST)
    assert reply.failure is VerdictStatus.TIMEOUT or at_once.startswith(b"HTTP/1.1 307")
    assert 0 < server.num_requests <= 6
    assert server.most_drips < DRIPS_AT_MOST


def test_every_try_that_drips_is_a_timeout(drips: Callable[..., DripServer]) -> None:
    server = drips(HEAD, b" ")
    reply = only_reply(server.url, Clock(), timeout_s=0.3, max_retries=2)
    assert (reply.failure, reply.num_retries) == (VerdictStatus.TIMEOUT, 2)
    assert reply.text == "no whole answer within 0.3 s"
    assert server.num_requests == 3


def test_a_reply_that_never_ends(drips: Callable[..., DripServer], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_client, "MAX_REPLY_BYTES", 2**20)
    server = drips(ENDLESS_HEAD, b" " * 65536, is_fast=True)
    reply = only_reply(server.url, timeout_s=300.0)
    assert reply.failure is VerdictStatus.ENGINE_LOST
    assert reply.text == "the reply is longer than 1 MiB, and was cut off there"


def test_a_reply_that_grows(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """A few kilobytes that unpack to many megabytes."""
    monkeypatch.setattr(http_client, "MAX_REPLY_BYTES", 2**20)
    bomb = gzip.compress(b" " * 2**25)
    assert len(bomb) < 2**16
    server.plays = [lambda _: (200, {"content-type": "application/json", "content-encoding": "gzip"}, bomb)]
    reply = only_reply(server.url)
    assert reply.text == "the reply is longer than 1 MiB, and was cut off there"
    assert reply.failure is VerdictStatus.ENGINE_LOST


def test_a_compressed_answer_is_read(server: Server) -> None:
    packed = gzip.compress(sends(completion("fine"))({})[2])
    server.plays = [lambda _: (200, {"content-type": "application/json", "content-encoding": "gzip"}, packed)]
    assert only_reply(server.url).text == "fine"
    assert server.headers[0]["accept-encoding"] == "identity"


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (raw("{}".encode("utf-16"), "application/json"), "not UTF-8"),
        (lambda _: (200, {"content-type": "application/json", "content-encoding": "br"}, b"x"), "not asked for: 'br'"),
        (lambda _: (200, {"content-encoding": "gzip, gzip"}, b"x"), "not asked for: 'gzip, gzip'"),
        (raw(b"[" * 200_000 + b"]" * 200_000, "application/json"), "nested too deeply"),
    ],
)
def test_replies_that_are_not_read(body: Any, said: str, server: Server) -> None:
    server.plays = [body]
    reply = only_reply(server.url)
    assert reply.failure is VerdictStatus.ENGINE_LOST
    assert said in reply.text


def test_a_redirect_is_followed(server: Server) -> None:
    moved = server.url.replace("/v1", "/elsewhere")
    server.plays = [lambda _: (307, {"location": f"{moved}/chat/completions"}, b""), sends(completion("fine"))]
    assert only_reply(server.url).text == "fine"


# --- a whole call ----------------------------------------------------------------------------------------------------


class Clock:
    """Stands still until somebody sleeps."""

    def __init__(self) -> None:
        self.at = 1000.0
        self.naps: list[float] = []

    def now(self) -> float:
        return self.at

    def sleep(self, seconds: float) -> None:
        self.naps.append(seconds)
        self.at += seconds


@pytest.mark.parametrize("told", ["86400", "301", "inf", "1e308", "Thu, 31 Dec 2099 00:00:00 GMT"])
def test_a_wait_of_a_day_is_not_kept(told: str, server: Server) -> None:
    clock = Clock()
    server.plays = [fails(429, "come back tomorrow", retry_after=told)] * 6
    reply = only_reply(server.url, clock, max_retries=5, call_timeout_s=30.0)
    assert reply.failure is VerdictStatus.ENGINE_LOST
    assert clock.at - 1000.0 <= 30.0


def test_tries_and_waits_end_with_the_calls_time(server: Server) -> None:
    clock = Clock()
    server.plays = [fails(503)] * 99
    reply = only_reply(server.url, clock, max_retries=98, timeout_s=5.0, call_timeout_s=20.0)
    assert clock.naps == [0.5, 1.0, 2.0, 4.0, 8.0]  # the next, of 16 s, would end after 31.5 s
    assert (reply.failure, reply.num_retries) == (VerdictStatus.ENGINE_LOST, 5)
    assert len(server.requests) == 6


def test_many_told_waits_end_with_the_calls_time(server: Server) -> None:
    clock = Clock()
    server.plays = [fails(429, retry_after="250")] * 99
    reply = only_reply(server.url, clock, max_retries=5, timeout_s=120.0)  # six tries: 6 * (120 + 60) = 1080 s in all
    assert clock.naps == [250.0] * 4
    assert (reply.failure, reply.num_retries) == (VerdictStatus.ENGINE_LOST, 4)


def test_a_last_try_has_what_is_left(server: Server, drips: Callable[..., DripServer]) -> None:
    slow = drips(HEAD, b" ")
    reply = only_reply(slow.url, timeout_s=600.0, call_timeout_s=0.4)
    assert reply.text == "no whole answer within 0.4 s"


def test_a_limiter_says_that_it_is_too_late_without_waiting() -> None:
    clock = Clock()
    limiter = RateLimiter(RateLimits(requests_per_minute=60), clock=clock.now, sleep=clock.sleep)
    assert limiter.acquire(0)
    limiter.pause(10.0)
    assert not limiter.acquire(0, before=1010.0)
    assert clock.naps == []
    assert limiter.acquire(0, before=1010.5)
    assert clock.naps == [10.0]


def test_what_stands_for_a_calls_time() -> None:
    assert Endpoint("http://h/v1", "m").call_within_s == 6 * (120 + 60)
    assert Endpoint("http://h/v1", "m", max_retries=0, timeout_s=3.0).call_within_s == 63.0
    assert Endpoint("http://h/v1", "m", call_timeout_s=7.0).call_within_s == 7.0
