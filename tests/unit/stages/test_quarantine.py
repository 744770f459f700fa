"""stages/quarantine.py: the samples that end their workers are found and named, and a broken engine is not taken for samples."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bcpg_cluster.errors import EngineError, MostlyFailedError
from bcpg_cluster.records import Receipt
from bcpg_cluster.stages.graph import StageSpec
from bcpg_cluster.stages.parts import Part
from bcpg_cluster.stages.quarantine import LEAST_LEFT_OUT, Quarantine, Task
from bcpg_cluster.store.faults import FaultEvent, FaultKind

VERIFY = StageSpec("verify", "cpu", ("prompts", "rollouts"), "outcomes", "rollouts")
WEIGH = StageSpec("weigh", "cpu", ("rollouts",), "weighted")


def receipt(table: str, shard: int, samples: int, name: str = "") -> Receipt:
    return Receipt(table, 1, shard, "x", name, samples, 1, "c", 0.0, {"samples": float(samples)})


class Bench:
    """Does tasks one after another; a task with one of ``deadly`` samples in it loses its member. ``num_lost`` counts those."""

    def __init__(self, num_samples: Sequence[int], deadly: set[tuple[int, int]], *, share: float = 0.01) -> None:
        self.queue: deque[Task] = deque()
        self.events: list[FaultEvent] = []
        self.accepted: dict[int, list[str]] = {}
        self.num_lost, self.deadly = 0, deadly
        inputs = {shard: receipt("rollouts", shard, number) for shard, number in enumerate(num_samples)}
        self.inputs = inputs
        self.quarantine = Quarantine(
            1, max_share=share, max_attempts=lambda pool: 3, inputs=lambda table: inputs,
            name_of=lambda task: f"{task.shard}/{task.part.start if task.part else '-'}",
            submit=self.queue.append, tell=self.events.append,
        )  # fmt: skip

    def work(self, stage: StageSpec = VERIFY) -> None:
        self.queue.extend(Task(stage, shard) for shard in self.inputs)
        num_tries: dict[Task, int] = {}
        while self.queue:
            task = self.queue.popleft()
            num_tries[task] = num_tries.get(task, 0) + 1
            assert num_tries[task] <= 3, f"{task} was tried four times"
            if self._is_deadly(task):
                self.num_lost += 1
                if not self.quarantine.lost(task, "worker died"):
                    self.queue.appendleft(task)  # as a pool does
            else:
                made = receipt("outcomes", task.shard, 1, self._content(task))
                if self.quarantine.done(task, made):
                    assert task.shard not in self.accepted
                    self.accepted[task.shard] = made.path.split()

    def _samples(self, task: Task) -> range:
        part = task.part or Part(0, int(self.inputs[task.shard].metrics["samples"]), 0)
        return range(part.start, part.end)

    def _is_deadly(self, task: Task) -> bool:
        is_asking = not task.given_up and not task.parts
        return is_asking and any((task.shard, sample) in self.deadly for sample in self._samples(task))

    def _content(self, task: Task) -> str:
        if task.parts:
            return " ".join(part.path for part in task.parts)
        return " ".join(f"{'lost' if task.given_up else 'ok'}{sample}" for sample in self._samples(task))

    def left_out(self) -> list[str]:
        return [event.what for event in self.events if event.kind is FaultKind.QUARANTINED]


def test_one_sample_costs_a_search_and_nothing_else():
    bench = Bench([16, 16], {(1, 5)})
    bench.work()
    assert bench.left_out() == ["1/5 in verify"]
    assert bench.accepted[0] == [f"ok{sample}" for sample in range(16)]
    assert bench.accepted[1] == [f"{'lost' if sample == 5 else 'ok'}{sample}" for sample in range(16)]
    assert bench.num_lost == 2 + 3 + 2  # the shard twice, parts of 8, 4 and 2 once, the sample alone twice
    assert [event.kind for event in bench.events] == [FaultKind.SPLIT] * 4 + [FaultKind.QUARANTINED]


@given(st.lists(st.integers(1, 40), min_size=1, max_size=4), st.data())
def test_whatever_is_deadly_is_found_and_all_else_is_as_it_would_have_been(sizes: list[int], data: st.DataObject):
    samples = [(shard, sample) for shard, size in enumerate(sizes) for sample in range(size)]
    # More in one shard may, before anything of it is finished, look like a broken engine.
    deadly = data.draw(st.sets(st.sampled_from(samples), max_size=2))
    bench = Bench(sizes, deadly)
    if len(samples) == len(deadly):
        return  # nothing but losses
    bench.work()
    assert sorted(bench.left_out()) == sorted(f"{shard}/{sample} in verify" for shard, sample in deadly)
    for shard, size in enumerate(sizes):
        expected = [f"{'lost' if (shard, sample) in deadly else 'ok'}{sample}" for sample in range(size)]
        assert bench.accepted[shard] == expected


def test_a_broken_engine_stops_the_run_and_nothing_is_left_out():
    bench = Bench([64], {(0, sample) for sample in range(64)})
    with pytest.raises(EngineError, match="6 members in a row were lost under parts of verify") as caught:
        bench.work()
    assert "worker died" in str(caught.value)
    assert (bench.left_out(), bench.accepted) == ([], {})


def test_more_than_may_be_left_out_stops_the_run_with_a_table():
    deadly = {(shard, 3) for shard in range(LEAST_LEFT_OUT + 1)}
    bench = Bench([8] * 20, deadly)  # 1 % of 160 samples is less than the least
    with pytest.raises(MostlyFailedError, match="5 samples or prompts ended their workers again and again") as caught:
        bench.work()
    for shard in range(LEAST_LEFT_OUT + 1):
        assert f"{shard}/3 in verify: worker died" in caught.value.problem
    assert "at most 4 of a stage" in caught.value.rule
    larger = Bench([8] * 20, deadly, share=0.05)  # 8 of 160
    larger.work()
    assert len(larger.left_out()) == LEAST_LEFT_OUT + 1


def test_what_cannot_be_split_is_left_to_the_pool():
    off, whole = Bench([8], set(), share=0.0), Bench([8], set())
    for bench, stage in ((off, VERIFY), (whole, WEIGH)):
        assert [bench.quarantine.lost(Task(stage, 0), "died") for _ in range(3)] == [False] * 3
        assert not bench.queue


def test_a_loss_while_parts_are_put_together_is_an_ordinary_one():
    bench = Bench([8], set())
    together = Task(VERIFY, 0, parts=(receipt("outcomes", 0, 8),))
    given_up = Task(VERIFY, 0, Part(2, 3, 8), given_up="died")
    for task in (together, given_up):
        assert not bench.quarantine.lost(task, "died")
        assert not bench.quarantine.lost(task, "died")
    assert not bench.queue
