"""dataflow.py: stages overlap on accepted shards, nothing is done twice, stopping keeps what is there."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bcpg_cluster.cluster.leases import PoolLimits
from bcpg_cluster.cluster.pool import Pool
from bcpg_cluster.cluster.runtime import MemberSpec
from bcpg_cluster.errors import DamagedShardError, EngineError, Interrupted
from bcpg_cluster.records import Receipt
from bcpg_cluster.run.dataflow import Dataflow
from bcpg_cluster.run.recovery.lost_shards import lost_shard
from bcpg_cluster.stages.graph import data_stages
from bcpg_cluster.stages.job import StageJob
from bcpg_cluster.stages.parts import Part
from bcpg_cluster.stages.quarantine import Task
from bcpg_cluster.store.layout import shard_path
from bcpg_cluster.store.manifest import Manifest
from bcpg_cluster.watch.observer import StageProgress
from tests.told import Heard

STAGES = data_stages({"llm": "judge.llm", "truth": "cpu"})
TABLES = ("rollouts", "outcomes", "steps", "verdicts.llm", "verdicts.truth", "weighted")


def receipt_of(job: StageJob, checksum: str = "c") -> Receipt:
    path = shard_path(job.round, job.output, job.shard, job.attempt)
    return Receipt(job.output, job.round, job.shard, job.attempt, path, 3, 10, checksum, 0.0, {"samples": 3.0})


class Bench:
    """A dataflow over a scripted runtime. ``hold`` keeps (stage, shard) open; ``log`` is the order in which work began."""

    def __init__(self, run_dir: Path, scripted: Any, num_shards: int) -> None:
        self.scripted, self.num_shards = scripted, num_shards
        self.manifest = Manifest(run_dir)
        self.hold: dict[tuple[str, int], Callable[[], bool]] = {}
        self.held: list[Any] = []
        self.log: list[tuple[str, int]] = []
        self.jobs: list[StageJob] = []
        self.stop = False
        self.observer = Heard()
        scripted.on_call = self._on_call
        self.pools = {
            name: Pool(name, scripted, lambda n, name=name: MemberSpec(f"{name}/{n}", dict, {}), PoolLimits())
            for name in ("rollout", "judge.llm", "cpu")
        }
        for pool in self.pools.values():
            pool.resize(1)

    def prompts(self) -> None:
        for shard in range(self.num_shards):
            self.manifest.accept(receipt_of(StageJob("", "prompts", "prompts", 1, shard, f"p{shard}", {})))

    def _on_call(self, call: Any) -> None:
        if call.method == "ping":
            call.answer.set_result("ready")
            return
        (job,) = call.args
        self.log.append((job.stage, job.shard))
        self.jobs.append(job)
        if (job.stage, job.shard) in self.hold:
            self.held.append(call)
        else:
            call.answer.set_result(receipt_of(job))

    def flow(self, **options: Any) -> Dataflow:
        def stop_asked() -> bool:  # polled in every turn of the loop: also the place to let held work go
            for call in list(self.held):
                (job,) = call.args
                if not call.answer.done() and self.hold[job.stage, job.shard]():
                    call.answer.set_result(receipt_of(job))
            return self.stop

        parameters, stages = {"policy_version": 0}, options.pop("stages", STAGES)
        return Dataflow(
            self.manifest, self.pools, stages, 1, self.num_shards, parameters,
            observer=self.observer, stop_asked=stop_asked, poll_s=0.01, **options,
        )  # fmt: skip


@pytest.fixture
def make_bench(tmp_path: Path, scripted: Any) -> Iterator[Callable[[int], Bench]]:
    made: list[Bench] = []

    def make(num_shards: int) -> Bench:
        made.append(Bench(tmp_path, scripted, num_shards))
        made[-1].prompts()
        return made[-1]

    yield make
    for bench in made:
        bench.manifest.close()


def within(seconds: float, bench: Bench) -> threading.Timer:
    """So that a deadlock fails instead of hanging."""
    timer = threading.Timer(seconds, lambda: setattr(bench, "stop", True))
    timer.start()
    return timer


def test_the_start_of_engines_is_no_part_of_a_stages_seconds(make_bench: Callable[[int], Bench], clock: Any):
    bench = make_bench(1)
    answer_all, pings = bench.scripted.on_call, list[Any]()
    bench.scripted.on_call = lambda call: pings.append(call) if call.method == "ping" else answer_all(call)
    late = Pool("rollout", bench.scripted, lambda n: MemberSpec(f"late/{n}", dict, {}), PoolLimits())
    bench.pools["rollout"] = late
    late.resize(1)

    def tend() -> None:
        if pings:
            clock.now += 100.0
            pings.pop().answer.set_result("ready")

    seconds = bench.flow(clock=clock, tend=tend).run()
    assert seconds["generate"] == 0.0  # the engine was ready after 100 s


def test_everything_is_done_once_and_sealed(make_bench: Callable[[int], Bench]):
    bench = make_bench(3)
    seconds = bench.flow().run()
    assert sorted(bench.log) == sorted((stage.name, shard) for stage in STAGES for shard in range(3))
    assert {(1, table) for table in TABLES} <= set(bench.manifest.state.sealed)
    assert set(seconds) == {stage.name for stage in STAGES}
    assert bench.observer.events.count(StageProgress(1, "weigh", 3, 3)) == 1
    assert all(job.parameters == {"policy_version": 0} for job in bench.jobs)


def test_the_longest_shards_go_first_as_far_as_anything_is_known(make_bench: Callable[[int], Bench]):
    bench = make_bench(4)
    answer = bench.scripted.on_call

    def counted(call: Any) -> None:  # shards 1 and 3 turn out long, whatever was expected of them
        answer(call)
        if call.method != "ping" and call.args[0].output in ("rollouts", "outcomes", "steps"):
            call.answer.result().metrics["tokens"] = (10.0, 90.0, 20.0, 80.0)[call.args[0].shard]

    bench.scripted.on_call = counted
    bench.flow(expected_tokens={0: 1.0, 1: 2.0, 2: 4.0, 3: 3.0}).run()
    orders = {name: [shard for stage, shard in bench.log if stage == name] for name in ("generate", "verify")}
    assert orders["generate"] == [2, 3, 1, 0]  # as expected
    assert orders["verify"][:2] == [3, 2]  # the first two came together, and the longer one was 3


def test_judging_of_shard_0_does_not_wait_for_generating_shard_1(make_bench: Callable[[int], Bench]):
    bench = make_bench(2)
    bench.hold[("generate", 1)] = lambda: ("weigh", 0) in bench.log  # shard 0 must get to the end first
    timer = within(20, bench)
    bench.flow(grace_s=0.1).run()
    timer.cancel()
    assert bench.log.index(("judge.llm", 0)) < bench.log.index(("verify", 1))
    assert bench.log.index(("weigh", 0)) < bench.log.index(("verify", 1))


def test_weighing_waits_for_every_judge_of_its_shard(make_bench: Callable[[int], Bench]):
    bench = make_bench(2)
    bench.hold[("judge.llm", 0)] = lambda: ("weigh", 1) in bench.log
    timer = within(20, bench)
    bench.flow(grace_s=0.1).run()
    timer.cancel()
    assert bench.log.index(("weigh", 1)) < bench.log.index(("weigh", 0))
    weigh = next(job for job in bench.jobs if (job.stage, job.shard) == ("weigh", 0))
    assert set(weigh.inputs) == {"rollouts", "outcomes", "steps", "verdicts.llm", "verdicts.truth"}
    assert all(receipt.shard == 0 for receipt in weigh.inputs.values())


def test_resuming_does_only_what_is_missing(make_bench: Callable[[int], Bench], scripted: Any):
    bench = make_bench(3)
    bench.hold[("judge.llm", 1)] = lambda: False
    timer = within(0.5, bench)
    with pytest.raises(Interrupted, match="what was finished is kept"):
        bench.flow(grace_s=0.1).run()
    timer.cancel()
    assert (1, "verdicts.llm") not in bench.manifest.state.sealed
    done = {key: dict(shards) for key, shards in bench.manifest.state.shards.items()}
    bench.stop = False
    bench.hold.clear()
    bench.log.clear()
    bench.pools["judge.llm"].lose(bench.pools["judge.llm"].members()[0], "a new process has no such lease")
    bench.pools["judge.llm"].drop_queue()
    bench.flow().run()
    assert sorted(bench.log) == [("judge.llm", 1), ("weigh", 1)]
    for key, shards in done.items():
        for shard, receipt in shards.items():
            assert bench.manifest.state.shards[key][shard] is receipt
    bench.log.clear()
    before = len(bench.manifest.state.sealed)
    assert bench.flow().run() == {}
    assert bench.log == []
    assert len(bench.manifest.state.sealed) == before


def test_stopping_finishes_leases_and_hands_out_none(make_bench: Callable[[int], Bench]):
    bench = make_bench(6)
    bench.hold[("generate", 0)] = lambda: bench.stop
    bench.hold[("generate", 1)] = lambda: bench.stop
    timer = within(0.2, bench)
    flow = bench.flow(grace_s=5.0)
    with pytest.raises(Interrupted):
        flow.run()
    timer.cancel()
    assert bench.log == [("generate", 0), ("generate", 1)]  # two leases a member, and no other after the stop
    assert set(bench.manifest.state.shards[1, "rollouts"]) == {0, 1}
    assert (1, "outcomes") not in bench.manifest.state.shards


def test_a_retry_is_a_new_attempt(make_bench: Callable[[int], Bench], scripted: Any):
    bench = make_bench(1)
    failed: list[StageJob] = []
    settle = scripted.on_call

    def fail_once(call: Any) -> None:
        if call.method == "run" and call.args[0].stage == "verify" and not failed:
            failed.append(call.args[0])
            call.answer.set_exception(EngineError("once"))
        else:
            settle(call)

    scripted.on_call = fail_once
    bench.flow().run()
    accepted = bench.manifest.state.receipts(1, "outcomes")[0]
    assert accepted.attempt != failed[0].attempt


def test_attempt_ids_differ(make_bench: Callable[[int], Bench]):
    bench = make_bench(4)
    bench.flow().run()
    attempts = [job.attempt for job in bench.jobs]
    assert len(set(attempts)) == len(attempts)


def damage_of(receipt: Receipt) -> DamagedShardError:
    return DamagedShardError(
        "run",
        receipt.path,
        table=receipt.table,
        round_=receipt.round,
        shard=receipt.shard,
        attempt=receipt.attempt,
        what="is gone",
    )


def find_damage_once(bench: Bench, reader: str, table: str, *, comes_out: str = "c") -> list[StageJob]:
    """Have the first job of ``reader`` on shard 0 find its shard of ``table`` damaged; ``comes_out`` is its next checksum."""
    found: list[StageJob] = []
    settle = bench.scripted.on_call

    def on_call(call: Any) -> None:
        job = call.args[0] if call.method == "run" else None
        if job is not None and (job.stage, job.shard) == (reader, 0) and not found:
            found.append(job)
            call.answer.set_exception(damage_of(job.inputs[table]))
        elif job is not None and found and (job.output, job.shard) == (table, 0):
            bench.log.append((job.stage, job.shard))
            call.answer.set_result(receipt_of(job, comes_out))
        else:
            settle(call)

    bench.scripted.on_call = on_call
    return found


def test_a_damaged_input_is_made_again_and_nothing_else_where_it_comes_out_the_same(make_bench: Callable[[int], Bench]):
    bench = make_bench(2)
    find_damage_once(bench, "weigh", "rollouts")
    bench.flow().run()
    expected = [(stage.name, shard) for stage in STAGES for shard in range(2)] + [("generate", 0)]
    assert sorted(bench.log) == sorted(expected)
    assert {(1, table) for table in TABLES} <= set(bench.manifest.state.sealed)
    assert [(r.table, r.shard, r.is_same) for r in bench.manifest.state.losses.remade] == [("rollouts", 0, True)]


def test_what_was_made_from_other_content_is_made_again(make_bench: Callable[[int], Bench]):
    bench = make_bench(2)
    find_damage_once(bench, "weigh", "rollouts", comes_out="other")
    bench.flow().run()
    again = ["generate", "verify", "segment", "judge.llm", "judge.truth"]
    expected = [(stage.name, shard) for stage in STAGES for shard in range(2)] + [(name, 0) for name in again]
    assert sorted(bench.log) == sorted(expected)
    assert {(1, table) for table in TABLES} <= set(bench.manifest.state.sealed)
    weigh = [job for job in bench.jobs if (job.stage, job.shard) == ("weigh", 0)]
    assert [dict(job.inputs)["rollouts"].checksum for job in weigh] == ["other"]


def test_an_answer_made_from_what_was_given_up_does_not_count(make_bench: Callable[[int], Bench]):
    """A judge works on the old steps when these are found damaged; they come out with other content."""
    bench = make_bench(1)
    find_damage_once(bench, "judge.truth", "steps", comes_out="other")
    bench.hold["judge.llm", 0] = lambda: bool(bench.manifest.state.losses.waiting or bench.manifest.state.losses.remade)
    timer = within(20, bench)
    bench.flow().run()
    timer.cancel()
    old, new = (job for job in bench.jobs if job.stage == "judge.llm")
    assert (old.inputs["steps"].checksum, new.inputs["steps"].checksum) == ("c", "other")
    assert bench.manifest.state.receipts(1, "verdicts.llm")[0].attempt == new.attempt


def test_a_member_that_dies_over_what_was_given_up_begins_no_search(make_bench: Callable[[int], Bench]):
    """A judge works on the old steps when these are found damaged, and dies: there is nothing to split."""
    bench = make_bench(1)
    find_damage_once(bench, "judge.truth", "steps", comes_out="other")
    killed: list[str] = []

    def goes_on() -> bool:
        if bench.manifest.state.losses.waiting and not killed:
            (call,) = bench.held
            killed.append(call.member)
            next(member for member in bench.scripted.members if member.name == call.member).die()
            return False
        return bool(killed)

    bench.hold["judge.llm", 0] = goes_on
    timer = within(20, bench)
    bench.flow(max_quarantined_share=0.5).run()
    timer.cancel()
    assert len(killed) == 1
    assert {(1, table) for table in TABLES} <= set(bench.manifest.state.sealed)


def test_damage_in_what_these_stages_only_read_is_for_the_coordinator(make_bench: Callable[[int], Bench]):
    bench = make_bench(2)
    find_damage_once(bench, "verify", "prompts")
    with pytest.raises(DamagedShardError, match="table 'prompts', round 1, shard 0"):
        bench.flow().run()
    assert bench.manifest.state.missing(1, "prompts", 2) == [0]
    assert all(not pool.num_leased and not pool.num_queued for pool in bench.pools.values())


def test_stages_whose_input_was_given_up_end_without_waiting_for_it(make_bench: Callable[[int], Bench]):
    """Of pools that take turns: what comes before them was made again with other content, and other stages have to follow first."""
    bench = make_bench(2)
    bench.flow().run()
    lost = bench.manifest.state.receipts(1, "rollouts")[0]
    for table in ("weighted", "verdicts.llm"):  # as if the judges' turn had been cut off
        bench.manifest.lose(lost_shard(bench.manifest.state.receipts(1, table)[0], STAGES, "gone"))
    bench.manifest.lose(lost_shard(lost, STAGES, "gone"))
    bench.scripted.on_call = lambda call: call.answer.set_result(
        "ready" if call.method == "ping" else receipt_of(call.args[0], "other")
    )
    by_name = {stage.name: stage for stage in STAGES}
    timer = within(20, bench)
    for turn in (["generate"], ["judge.llm", "weigh"], ["verify", "segment"], ["judge.llm", "judge.truth", "weigh"]):
        bench.flow(stages=[by_name[name] for name in turn]).run()
    timer.cancel()
    assert {(1, table) for table in TABLES} <= set(bench.manifest.state.sealed)


def test_a_left_out_unit_whose_shard_cannot_be_read_has_a_number_for_a_name(make_bench: Callable[[int], Bench]):
    bench = make_bench(1)
    task = Task(next(stage for stage in STAGES if stage.name == "generate"), 0, Part(1, 2, 3))
    assert bench.flow()._unit_name(task) == "unit 1 of shard 0"
