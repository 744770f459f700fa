"""cluster/work_queue.py: what is to be alone is alone, and nobody else waits longer for it than one member has to."""

from __future__ import annotations

from concurrent.futures import Future
from typing import Any

from bcpg_cluster.cluster.leases import Lease, Slot, Work
from bcpg_cluster.cluster.runtime import MemberSpec
from bcpg_cluster.cluster.work_queue import WorkQueue


def slots_of(number: int) -> list[Slot]:
    made = [Slot(member=name, spec=MemberSpec(name, dict, {}), ready=Future(), asked=0.0) for name in "abcdef"[:number]]  # type: ignore[arg-type]
    for slot in made:
        slot.is_ready = True
    return made


class Bench:
    def __init__(self, members: int) -> None:
        self.queue, self.slots = WorkQueue(), slots_of(members)
        self.given: list[tuple[str, str]] = []

    def add(self, *labels: str) -> None:
        for label in labels:
            self.queue.add(Work((label,), lambda member: Future(), label, is_alone=label.startswith("alone")))

    def hand_out(self) -> list[tuple[str, str]]:
        self.given.clear()
        self.queue.hand_out(self.slots, 2, self._lease)
        return list(self.given)

    def _lease(self, slot: Any, work: Work, attempt: int) -> None:
        slot.leases.append(Lease(work, attempt, Future(), 0.0))
        self.given.append((slot.member, work.label))


def test_what_is_to_be_alone_is_the_only_lease_of_its_member():
    bench = Bench(2)
    bench.add("1", "2", "3", "4", "alone")
    assert bench.hand_out() == [("a", "alone"), ("b", "1"), ("b", "2")]
    assert bench.hand_out() == []  # "a" is taken
    bench.slots[0].leases.clear()
    assert bench.hand_out() == [("a", "3"), ("a", "4")]


def test_while_no_member_is_idle_one_gets_nothing_more_and_the_others_do():
    bench = Bench(3)
    bench.add("1", "2", "3", "4", "5", "6")
    bench.hand_out()
    bench.add("alone 1", "alone 2", "7", "8")
    bench.slots[0].leases.pop()
    assert bench.hand_out() == []  # "a" has one lease left, and is waited for
    bench.slots[1].leases.pop()
    assert bench.hand_out() == [("b", "7")]
    bench.slots[0].leases.clear()
    assert bench.hand_out() == [("a", "alone 1")]
    assert len(bench.queue) == 2


def test_what_was_lost_comes_first_and_all_is_forgotten_at_once():
    bench = Bench(1)
    bench.add("1", "2", "alone")
    bench.queue.put_back(Work(("0",), lambda member: Future(), "0"), 2)
    assert len(bench.queue) == 4
    assert bench.hand_out() == [("a", "alone")]
    bench.slots[0].leases.clear()
    assert bench.hand_out() == [("a", "0"), ("a", "1")]
    assert [lease.attempt for lease in bench.slots[0].leases] == [2, 1]
    assert (bench.queue.clear(), len(bench.queue)) == (1, 0)


def sized(label: str, size: float) -> Work:
    return Work((label,), lambda member: Future(), label, size=size)


def test_the_longest_goes_first_and_equals_as_they_came():
    bench = Bench(1)
    for label, size in [("short", 1.0), ("long", 9.0), ("middle", 5.0), ("middle, later", 5.0), ("longest", 12.0)]:
        bench.queue.add(sized(label, size))
    order = []
    for _ in range(5):
        bench.slots[0].leases.clear()
        bench.queue.hand_out(bench.slots, 1, bench._lease)
        order = [label for _, label in bench.given]
    assert order == ["longest", "long", "middle", "middle, later", "short"]


def test_what_was_lost_goes_before_what_is_longer():
    bench = Bench(1)
    bench.queue.add(sized("longest", 12.0))
    bench.queue.put_back(sized("lost", 1.0), 2)
    assert bench.hand_out() == [("a", "lost"), ("a", "longest")]
