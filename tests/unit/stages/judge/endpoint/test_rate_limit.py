"""engines/rate_limit.py, on a clock that stands still until somebody sleeps."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bcpg_cluster.stages.judge.endpoint.rate_limit import Backoff, RateLimiter, RateLimits, retry_after_s


class Time:
    def __init__(self) -> None:
        self.now = 100.0

    def clock(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def limiter(time: Time, **limits: float) -> RateLimiter:
    return RateLimiter(RateLimits(**limits), clock=time.clock, sleep=time.sleep)  # type: ignore[arg-type]


def starts(limit: RateLimiter, time: Time, calls: list[float]) -> list[float]:
    found = []
    for tokens in calls:
        limit.acquire(tokens)
        found.append(time.now)
    return found


def test_no_limit_never_waits() -> None:
    time = Time()
    assert starts(limiter(time), time, [1e9] * 5) == [100.0] * 5


def test_requests_are_spaced() -> None:
    time = Time()
    limit = limiter(time, requests_per_minute=120)
    assert starts(limit, time, [0.0] * 4) == [100.0, 100.5, 101.0, 101.5]
    time.now = 200.0  # an idle time saves nothing up
    assert starts(limit, time, [0.0] * 2) == [200.0, 200.5]


def test_tokens_are_spaced_and_settled() -> None:
    time = Time()
    limit = limiter(time, tokens_per_minute=6000)  # 100 a second
    assert starts(limit, time, [1000.0, 500.0, 1.0]) == [100.0, 110.0, 115.0]
    limit.acquire(2000.0)
    assert time.now == pytest.approx(115.01)
    limit.settle(2000.0, 300.0)  # it used 3 s worth, not 20
    limit.acquire(0.0)
    assert time.now == pytest.approx(118.01)
    limit.settle(0.0, 700.0)  # and this one 7 s worth where none was expected
    limit.acquire(0.0)
    assert time.now == pytest.approx(125.01)


def test_the_stricter_limit_decides() -> None:
    time = Time()
    limit = limiter(time, requests_per_minute=60, tokens_per_minute=6000)
    assert starts(limit, time, [10.0, 500.0, 10.0, 10.0]) == [100.0, 101.0, 106.0, 107.0]


def test_a_pause_holds_everybody_even_those_who_wait_already() -> None:
    time = Time()
    limit = limiter(time)
    limit.pause(9.0)
    limit.pause(3.0)  # a shorter one does not end a longer one
    assert starts(limit, time, [0.0, 0.0]) == [109.0, 109.0]

    def sleep(seconds: float) -> None:
        time.sleep(seconds)
        if seconds == 1.0:  # while the second caller waits its second, the endpoint tells another to stay away for 20
            waiting.pause(20.0)

    waiting = RateLimiter(RateLimits(requests_per_minute=60), clock=time.clock, sleep=sleep)
    assert starts(waiting, time, [0.0, 0.0]) == [109.0, 130.0]


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.floats(0, 30), st.floats(1, 500)), min_size=2, max_size=40),
    st.floats(1, 600),
    st.floats(100, 10_000),
)
def test_no_span_exceeds_the_limits(arrivals: list[tuple[float, float]], requests: float, tokens: float) -> None:
    time = Time()
    limit = limiter(time, requests_per_minute=requests, tokens_per_minute=tokens)
    begun: list[tuple[float, float]] = []
    for idle, size in arrivals:
        time.now += idle
        limit.acquire(size)
        begun.append((time.now, size))
    for first in range(len(begun)):
        for last in range(first + 1, len(begun)):
            span_minutes = (begun[last][0] - begun[first][0]) / 60.0
            assert last - first <= requests * span_minutes * (1 + 1e-6) + 1e-6
            assert sum(size for _, size in begun[first:last]) <= tokens * span_minutes * (1 + 1e-6) + 1e-6


@pytest.mark.parametrize(
    "limits",
    [{"requests_per_minute": 0}, {"tokens_per_minute": -1}, {"concurrency": 0}, {"tokens_per_minute": math.nan}],
)
def test_limits_that_let_nothing_through(limits: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="positive"):
        RateLimits(**limits)  # type: ignore[arg-type]


def test_backoff() -> None:
    wait = Backoff(first_s=1.0, most_s=10.0, most_told_s=100.0)
    assert [wait.delay(tries, None, 1.0) for tries in (1, 2, 3, 4, 5, 6, 5000)] == [1, 2, 4, 8, 10, 10, 10]
    assert wait.delay(3, None, 0.0) == 2.0  # between half and all of it
    assert wait.delay(1, 30.0, 1.0) == 30.0
    assert wait.delay(4, 3.0, 1.0) == 8.0  # never less than our own
    assert wait.delay(1, 100.0, 0.0) == 100.0
    assert wait.delay(1, 100.5, 0.0) is None


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, None),
        ("0", 0.0),
        ("12", 12.0),
        ("1.5", 1.5),
        ("-3", None),
        ("nan", None),
        ("inf", None),
        ("soon", None),
        ("Sun, 06 Nov 1994 08:49:37 GMT", 37.0),
        ("Sun, 06 Nov 1994 08:49:37 -0000", 37.0),  # no zone: UTC
        ("Sun, 06 Nov 1994 08:48:37 GMT", 0.0),  # past
    ],
)
def test_retry_after(value: str | None, expected: float | None) -> None:
    now = 784111740.0  # Sun, 06 Nov 1994 08:49:00 GMT
    assert retry_after_s({} if value is None else {"retry-after": value}, now) == expected
