"""What went wrong in a run and what was done about it: one record a fault, a line each in the manifest.

A member that dies every second must not fill the manifest: of a sort that keeps coming back, the first :data:`NUM_LINES_EACH` have
a line of their own; after that a line stands for many, with their number and the time of the first and the last.
"""

from __future__ import annotations

import time as clock
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from enum import StrEnum
from typing import Any, Self

NUM_LINES_EACH = 100
_MAX_CAUSE = 2000  # characters


class FaultKind(StrEnum):
    """What was done about a fault; from the worst to the mildest."""

    QUARANTINED = "quarantined"  # a sample that ended its worker again and again was left out
    TAKEN_OVER = "taken_over"  # the run was taken from a driver that gave no sign
    REMADE = "remade"  # something that was made before was damaged, and was made anew
    FALLBACK = "fallback"  # another way was taken
    SHRUNK = "shrunk"  # a pool continues with fewer members
    RETRY = "retry"  # a training, push or proof began again
    SPLIT = "split"  # a shard that ended its worker again and again is worked on in parts
    REPLACEMENT = "replacement"  # a member was ended, and another started
    REQUEUE = "requeue"  # a piece of work went back into the queue


_REPEATING = frozenset({FaultKind.RETRY, FaultKind.FALLBACK, FaultKind.REPLACEMENT, FaultKind.REQUEUE, FaultKind.SPLIT})
"""Kinds of which a line may stand for many. The others are named one by one."""


def _now() -> float:
    return round(clock.time(), 3)


@dataclass(frozen=True, slots=True)
class FaultEvent:
    """A fault and its consequence: a line of the manifest, and what ``bcpg-cluster status --events --json`` prints.

    Attributes:
        kind: a :class:`FaultKind`.
        what: the piece of work (stage, round and shard), or the member or group.
        cause: why, in the words of the error.
        consequence: what was done.
        round: that was under way; ``None`` where it is unknown.
        pool, member: where it happened; ``None`` where it was in no member.
        host: the machine of the member; ``None`` where it is unknown.
        time: seconds since the epoch, by the driver's clock; of the last of them where the event stands for many.
        num_times: how many such faults it stands for.
        first_time: of the first of many; ``None`` where it stands for one.
    """

    kind: FaultKind
    what: str
    cause: str
    consequence: str = ""
    round: int | None = None
    pool: str | None = None
    member: str | None = None
    host: str | None = None
    time: float = field(default_factory=_now, compare=False)
    num_times: int = 1
    first_time: float | None = field(default=None, compare=False)

    def plain(self) -> dict[str, Any]:
        """What is known, as JSON."""
        content = {each.name: getattr(self, each.name) for each in fields(self)}
        return {name: value for name, value in content.items() if value is not None} | {
            "cause": self.cause[:_MAX_CAUSE]
        }

    @classmethod
    def read(cls, content: Mapping[str, Any]) -> Self:
        """The record of stored JSON; keys of newer programs are left out.

        Raises:
            KeyError, TypeError, ValueError: the content is none.
        """
        known = {each.name: content[each.name] for each in fields(cls) if each.name in content}
        return cls(**{**known, "kind": FaultKind(content["kind"])})

    @property
    def text(self) -> str:
        """One line for people."""
        where = f" on {self.member}" if self.member and self.member not in self.what else ""
        times = f" ({self.num_times} times)" if self.num_times > 1 else ""
        first = self.cause.strip().splitlines()[0][:300] if self.cause.strip() else ""
        then = f"; {self.consequence}" if self.consequence else ""
        return f"{self.what}{where}{times}: {first}{then}"


class FaultLines:
    """Which faults get a line, and which are counted into a later one.

    Args:
        earlier: those that have lines already.
    """

    def __init__(self, earlier: Iterable[FaultEvent] = ()) -> None:
        self._num_told: Counter[tuple[FaultKind, int | None, str | None]] = Counter()
        self._held: dict[tuple[FaultKind, int | None, str | None], FaultEvent] = {}
        for fault in earlier:
            self._num_told[_sort(fault)] += fault.num_times

    def add(self, fault: FaultEvent) -> FaultEvent | None:
        """What to write now; ``None`` while it is held. A line comes whenever the number of a sort has grown by half."""
        sort = _sort(fault)
        held = self._held.pop(sort, None)
        if held is not None:
            fault = _joined(held, fault)
        num_told = self._num_told[sort]
        if fault.kind in _REPEATING and num_told >= NUM_LINES_EACH and fault.num_times < num_told // 2:
            self._held[sort] = fault
            return None
        self._num_told[sort] += fault.num_times
        return fault

    def rest(self) -> list[FaultEvent]:
        """What is still held; it is let go of."""
        held, self._held = list(self._held.values()), {}
        for fault in held:
            self._num_told[_sort(fault)] += fault.num_times
        return held


def _sort(fault: FaultEvent) -> tuple[FaultKind, int | None, str | None]:
    return fault.kind, fault.round, fault.pool


def _joined(first: FaultEvent, last: FaultEvent) -> FaultEvent:
    since = first.time if first.first_time is None else first.first_time
    return replace(last, num_times=first.num_times + last.num_times, first_time=since)


def count_by_kind(faults: Iterable[FaultEvent]) -> dict[str, int]:
    """How many there were of each kind, the worst kind first; kinds without any are left out."""
    counts: Counter[FaultKind] = Counter()
    for fault in faults:
        counts[fault.kind] += fault.num_times
    return {str(kind): counts[kind] for kind in FaultKind if counts[kind]}


def worst_of(faults: Sequence[FaultEvent]) -> FaultEvent | None:
    """The first of the worst kind; ``None`` without any."""
    order = list(FaultKind)
    return min(faults, key=lambda fault: order.index(fault.kind), default=None)
