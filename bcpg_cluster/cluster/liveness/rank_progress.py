"""What a busy member says of its progress. Written by the thread that works, read by the one that answers control calls."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

from bcpg_cluster.cluster.liveness.deadline import LongestTimes

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class RankProgress:
    """What a member is at.

    Attributes:
        doing: the kind of piece it is at, e.g. ``micro-batch``; empty between two calls.
        detail: which one, e.g. ``3 of 8 in step 5 of 12``.
        moves: pieces begun or ended so far; it only grows.
        longest_s: how long the longest piece of this kind took it; ``None`` before the first, and where pieces of this kind
            differ so much that none says how long the next takes.
    """

    doing: str
    detail: str
    moves: int
    longest_s: float | None
    host: str
    pid: int

    @property
    def where(self) -> str:
        """The piece in words."""
        return " ".join(word for word in (self.doing, self.detail) if word) or "between two calls"


class ProgressReporter:
    """A member's own record of where it is. One thread writes; any may read :meth:`now`."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._host, self._pid = socket.gethostname(), os.getpid()
        self._longest = LongestTimes()
        self._since = clock()
        self._is_even = False
        self._now = RankProgress("", "", 0, None, self._host, self._pid)

    def now(self) -> RankProgress:
        """Where the member is."""
        return self._now

    def begin(self, doing: str, detail: str = "", *, is_even: bool = False) -> None:
        """The piece before is done, and this one begins.

        Args:
            is_even: pieces of this kind take about equally long, so a much longer one is stuck.
        """
        now, before = self._clock(), self._now
        if self._is_even:
            self._longest.note(before.doing, now - self._since)
        self._since, self._is_even = now, is_even
        longest = self._longest.longest(doing) if is_even else None
        self._now = RankProgress(doing, detail, before.moves + 1, longest, self._host, self._pid)

    def each(self, doing: str, pieces: Sequence[T], detail: str = "") -> Iterator[T]:
        """The pieces of a loop, all of one even kind; each begins when the loop takes it."""
        for number, piece in enumerate(pieces, 1):
            self.begin(doing, f"{number} of {len(pieces)}{detail}", is_even=True)
            yield piece
        self.begin(f"after the last {doing}", detail.strip())

    @contextmanager
    def call(self, doing: str, detail: str = "") -> Iterator[None]:
        """A call that begins with this piece; at its end the member rests."""
        self.begin(doing, detail)
        try:
            yield
        finally:
            self.begin("")
