"""Keeping within an endpoint's limits, and waiting well when it says no. Time comes from outside."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC
from email.utils import parsedate_to_datetime


@dataclass(frozen=True, slots=True)
class RateLimits:
    """What an endpoint allows one process. ``None`` is no limit.

    Attributes:
        tokens_per_minute: of prompts and answers together, as vendors count them.
        concurrency: calls under way at once.

    Raises:
        ValueError: a limit that is not positive.
    """

    requests_per_minute: float | None = None
    tokens_per_minute: float | None = None
    concurrency: int = 8

    def __post_init__(self) -> None:
        """Refuse limits that would let nothing through."""
        for limit in (self.requests_per_minute, self.tokens_per_minute, self.concurrency):
            if limit is not None and not limit > 0:
                raise ValueError(f"a rate limit must be positive, not {limit}")


class _Pace:
    """Starts spaced so that no span of T seconds, from one start on, takes in more than ``per_minute`` * T / 60 and the
    last start's amount. What was not used is not saved up: an idle minute allows no burst.
    """

    def __init__(self, per_minute: float | None) -> None:
        self._seconds_each = 60.0 / per_minute if per_minute is not None else 0.0
        self.free_at = 0.0

    def book(self, start: float, amount: float) -> None:
        self.free_at = max(start, self.free_at) + amount * self._seconds_each

    def correct(self, amount: float) -> None:
        self.free_at += amount * self._seconds_each


class RateLimiter:
    """Says when a call may start. Thread-safe; callers wait in the order they came.

    Args:
        clock: seconds, monotonic.
        sleep: waits for seconds.
    """

    def __init__(
        self,
        limits: RateLimits,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        self._clock, self._sleep = clock, sleep
        self._lock = threading.Lock()
        self._requests = _Pace(limits.requests_per_minute)
        self._tokens = _Pace(limits.tokens_per_minute)
        self._closed_until = 0.0

    def acquire(self, tokens: float, *, before: float = math.inf) -> bool:
        """Wait until a call of about ``tokens`` tokens may start; false where that is not before a time of ``clock``."""
        with self._lock:
            start = max(self._clock(), self._requests.free_at, self._tokens.free_at)
            self._requests.book(start, 1.0)
            self._tokens.book(start, tokens)
        while (wait := max(start, self._closed_until) - self._clock()) > 0:  # a pause may come while we wait
            if self._clock() + wait >= before:
                self.settle(tokens, 0)
                return False
            self._sleep(wait)
        return self._clock() < before

    def settle(self, expected: float, used: float) -> None:
        """Correct the account of a call that was expected to use other tokens than it did."""
        with self._lock:
            self._tokens.correct(used - expected)

    def pause(self, seconds: float) -> None:
        """Let no call start for a while: the endpoint said so, and it meant all callers."""
        with self._lock:
            self._closed_until = max(self._closed_until, self._clock() + seconds)


@dataclass(frozen=True, slots=True)
class Backoff:
    """How long to wait before the next try: doubling from ``first_s`` to ``most_s``, and a random part of it, so that
    callers that failed together do not come back together.

    Attributes:
        most_told_s: an endpoint that asks for a longer wait is given up on instead.
    """

    first_s: float = 1.0
    most_s: float = 60.0
    most_told_s: float = 300.0

    def delay(self, num_failed: int, told_s: float | None, jitter: float) -> float | None:
        """Seconds until try number ``num_failed`` + 1; ``None`` to give up.

        Args:
            num_failed: tries that failed so far, from 1.
            told_s: what the endpoint asked for (``Retry-After``): never waited less; ``None`` if it said nothing.
            jitter: in [0, 1).
        """
        if told_s is not None and told_s > self.most_told_s:
            return None
        own = min(self.most_s, self.first_s * 2.0 ** min(num_failed - 1, 60)) * (0.5 + 0.5 * jitter)
        return max(own, told_s or 0.0)


def retry_after_s(headers: Mapping[str, str], now: float) -> float | None:
    """The wait in seconds that an answer's ``Retry-After`` asks for (RFC 9110, 10.2.3: seconds or a date).

    Args:
        headers: with keys that match in lower case.
        now: seconds since the epoch.

    Returns:
        ``None`` where it asks for none, or for nothing that can be understood.
    """
    value = headers.get("retry-after")
    if value is None:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            date = parsedate_to_datetime(value)
        except ValueError:
            return None
        seconds = (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp() - now
        seconds = max(0.0, seconds)
    return seconds if seconds >= 0.0 and math.isfinite(seconds) else None
