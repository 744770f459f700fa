"""push.py: what counts as proof, and what happens when a push does not get through."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest

from bcpg_cluster.cluster.gang import Gang
from bcpg_cluster.cluster.inline_runtime import InlineRuntime
from bcpg_cluster.cluster.leases import PoolLimits
from bcpg_cluster.cluster.pool import Pool
from bcpg_cluster.cluster.runtime import MemberSpec
from bcpg_cluster.errors import EngineError, MemberLostError, PushError
from bcpg_cluster.run.push import Pusher, PushSettings
from bcpg_cluster.stages.fakes.generator import FakeGenerator
from bcpg_cluster.stages.fakes.skill import encode, fake_logprobs, verify_skill
from bcpg_cluster.stages.fakes.trainer import FakeTrainerRank
from bcpg_cluster.stages.job import StageWorker
from bcpg_cluster.stages.push.adapters.versions import AdapterPush, Carried
from bcpg_cluster.stages.push.canaries import Canary, choose_probe, fitting_canaries, judge_canaries
from bcpg_cluster.stages.push.protocol import PushGroup, SnapshotDigests, TensorSpec
from bcpg_cluster.stages.train.worker import TrainWorker
from bcpg_cluster.watch.observer import Faulted
from tests.told import Heard

TOLERANCE = 1e-3


def canary(before: tuple[float, ...], after: tuple[float, ...], prompt: int = 4) -> Canary:
    return Canary(tuple(range(prompt)), tuple(range(100, 100 + len(after))), before, after)


# --- judging


def test_passed_by_hand():
    canaries = [canary((-1.0, -2.0), (-1.5, -2.0)), canary((-3.0,), (-3.002,))]
    scored = [[(-1.5004, -2.0), (-3.002,)], [(-1.5, -2.0), (-3.0027,)]]
    proof = judge_canaries(canaries, scored, [2e-4, 5e-4], TOLERANCE)
    assert proof.verdict == "passed"
    assert proof.worst_nats == pytest.approx(7e-4)
    assert proof.separation_nats == pytest.approx(0.5)
    assert proof.cached_prefix_nats == pytest.approx(5e-4)


def test_weights_that_cannot_be_told_apart_prove_nothing():
    old = (-1.0, -2.0)
    proof = judge_canaries([canary(old, (-1.0009, -2.0))], [[(-1.0009, -2.0)]], None, TOLERANCE)
    assert proof.verdict == "not discriminating"
    assert judge_canaries([], [], None, TOLERANCE).verdict == "not discriminating"


@pytest.mark.parametrize(
    ("scored", "cached"),
    [
        ([[(-1.0, -2.0)]], [0.0]),  # the old weights
        ([[(-1.5, -2.0)], [(-1.0, -2.0)]], [0.0, 0.0]),  # one of two members
        ([[(-1.5, -2.0)]], [2e-3]),  # right without the cache, wrong through it
        ([[(math.nan, -2.0)]], [0.0]),
        ([[(-1.5, math.nan)]], [0.0]),
        ([[(-1.5, -2.0)], [(-1.5, math.nan)]], [0.0, 0.0]),
        ([[(-1.5, -2.0)]], [math.nan]),
        ([[(-1.5, -2.0)], [(-1.5, -2.0)]], [0.0, math.nan]),
        ([[(-math.inf, -2.0)]], [0.0]),
    ],
)
def test_other_weights_and_nan_stop_the_run(scored: Any, cached: list[float]):
    with pytest.raises(PushError, match="do not hold the weights that were sent"):
        judge_canaries([canary((-1.0, -2.0), (-1.5, -2.0))], scored, cached, TOLERANCE)


def test_a_nan_on_the_trainers_side_stops_the_run():
    with pytest.raises(PushError):
        judge_canaries([canary((-1.0, -1.0), (-1.0, math.nan))], [[(-1.0, -1.0)]], None, TOLERANCE)


def test_the_probe_is_the_most_changed_token_behind_a_whole_cache_block():
    early = canary((0.0,) * 40, (-9.0,) + (0.0,) * 39, prompt=4)  # changed most, but after 4 tokens only
    late = canary((0.0,) * 40, (0.0,) * 35 + (-0.5,) + (0.0,) * 4, prompt=4)
    probe = choose_probe([early, late])
    assert probe is not None
    assert len(probe.prefix) == 39
    assert probe.prefix == late.prompt_token_ids + late.token_ids[:35]
    assert (probe.token, probe.after) == (late.token_ids[35], -0.5)
    assert choose_probe([canary((0.0,) * 5, (1.0,) * 5)]) is None
    assert choose_probe([]) is None
    assert choose_probe([canary((0.0,) * 5, (1.0,) * 5)], min_prefix_tokens=8).prefix[-1] == 103  # type: ignore[union-attr]


# --- what fits into a context


def test_canaries_are_cut_to_what_the_engine_takes():
    """An engine of 10 tokens scores at most 9, since it draws one more: 4 of a prompt and 5 of a response."""
    exact, short = canary((-1.0,) * 6, (-2.0,) * 6), canary((-1.0,) * 5, (-2.0,) * 5)
    no_room = canary((-1.0,), (-2.0,), prompt=9)
    one_token = canary((-1.0, -3.0), (-2.0, -4.0), prompt=8)
    kept = fitting_canaries([exact, short, no_room, one_token], 10)
    assert kept == [
        Canary((0, 1, 2, 3), (100, 101, 102, 103, 104), (-1.0,) * 5, (-2.0,) * 5),
        short,
        Canary(tuple(range(8)), (100,), (-1.0,), (-2.0,)),
    ]
    assert all(len(one.prompt_token_ids) + len(one.token_ids) < 10 for one in kept)
    assert fitting_canaries([exact, no_room], None) == [exact, no_room]


# --- pushing, between real fakes on threads


class Receiver(FakeGenerator):
    """A fake engine with faults of receiving. ``gate`` holds a stuck one until the test ends."""

    gate: ClassVar[threading.Event] = threading.Event()
    fault_of: ClassVar[dict[int, str]] = {}  # by member number
    context_of: ClassVar[dict[int, int]] = {}

    def __init__(self, number: int, **settings: Any) -> None:
        self.number = number
        self.loaded: list[int] = []
        self.merged: list[int] = []
        super().__init__(max_model_len=self.context_of.get(number), **settings)
        self.start: str | None = "v0"

    def adapter_start(self) -> str | None:
        fault = self.fault_of.get(self.number)
        if fault == "holds other weights":
            return "another run's"
        return None if fault == "its checkpoint is gone" else self.start

    def receive_adapters(self, specs: Any, adapters: AdapterPush, version: int) -> dict[str, str]:
        """A fake's adapter is its skill; a fault of receiving is as for weights."""
        assert self.start == adapters.start
        self.merged.append(version)
        self.start = adapters.result
        return self.receive_weights(specs, version)

    def receive_weights(self, specs: Any, version: int) -> dict[str, str]:
        fault = self.fault_of.get(self.number)
        if fault == "stuck":
            self.gate.wait(30)
        if fault == "lost":
            raise MemberLostError("gone in the middle")
        if fault == "broken wire":
            raise PushError("gloo: connection closed by peer")
        digests = super().receive_weights(specs, version)
        if fault == "altered":
            return dict.fromkeys(digests, "0" * 64)
        if fault == "partial":
            return {}
        if fault == "unapplied":  # the digests are right, but the old weights answer
            self.skill = 0.6
        return digests

    def load_snapshot(self, path: str, version: int) -> dict[str, str]:
        self.loaded.append(version)
        self.start = f"v{version}"
        digests = super().load_snapshot(path, version)
        return dict.fromkeys(digests, "0" * 64) if self.fault_of.get(self.number) == "reads other bytes" else digests

    def score_next(self, prefix: tuple[int, ...], token: int) -> float:
        if self.fault_of.get(self.number) == "dies when asked":
            raise MemberLostError("died between two calls")
        return super().score_next(prefix, token)


class StuckTrainer(FakeTrainerRank):
    """A trainer whose process stands still in one of the calls of a push; it goes on, too late, when ``gate`` opens."""

    def __init__(self, stuck_in: str) -> None:
        super().__init__(skill=0.9)
        self.stuck_in, self.gate, self.has_ended = stuck_in, threading.Event(), threading.Event()

    @contextmanager
    def _standing_still(self, call: str) -> Iterator[None]:
        if call == self.stuck_in:
            self.gate.wait(60)
        yield
        if call == self.stuck_in:
            self.has_ended.set()

    def leave_push_group(self) -> None:
        with self._standing_still("leave_push_group"):
            super().leave_push_group()

    def join_push_group(self, group: PushGroup) -> None:
        with self._standing_still("join_push_group"):
            super().join_push_group(group)

    def push_specs(self, carried: Carried = "weights") -> list[TensorSpec]:
        with self._standing_still("push_specs"):
            return super().push_specs(carried)

    def push_weights(self, carried: Carried = "weights") -> list[TensorSpec]:
        with self._standing_still("push_weights"):
            return super().push_weights(carried)


class Bench:
    """A trainer of one rank and a pool of receivers."""

    def __init__(self, run_dir: Path, members: int, *, deadline_s: float = 10.0, backend: str = "gloo") -> None:
        self.run_dir, self.runtime = run_dir, InlineRuntime()
        self.version, self.path = 0, ""
        self.receivers: dict[int, Receiver] = {}
        self.trainer = FakeTrainerRank(skill=0.9)
        self.gang = Gang("trainer", self.runtime, self._trainer_spec, 1)
        self.pool = Pool("rollout", self.runtime, self._spec, PoolLimits())
        self.pool.resize(members)
        self.gang.ensure_up()
        self.heard = Heard()
        self.pusher = Pusher(
            self.gang, self.pool, PushSettings(backend, deadline_s, TOLERANCE),
            serving=self._serve, observer=self.heard, wait_ready=self.wait_ready,
        )  # fmt: skip
        self.wait_ready()

    @property
    def retries(self) -> list[str]:
        return [event.fault.text for event in self.heard.of(Faulted)]

    def _trainer_spec(self, group: int, rank: int) -> MemberSpec:
        arguments = {
            "rank": 0, "world_size": 1, "make_engine": lambda *meeting: self.trainer, "verify": verify_skill,
        }  # fmt: skip
        return MemberSpec(f"trainer/{rank}.{group}", TrainWorker, arguments)

    def _spec(self, number: int) -> MemberSpec:
        version, path = self.version, self.path or None

        def host() -> StageWorker:
            self.receivers[number] = Receiver(number, policy_version=version, snapshot=path)
            return StageWorker({}, self.receivers[number])

        return MemberSpec(f"rollout/{number}", host, {})

    def _serve(self, version: int) -> None:
        self.version, self.path = version, str(self.run_dir / f"v{version}")

    def wait_ready(self) -> None:
        while len(self.pool.members()) < self.pool.size:
            self.pool.poll()

    def snapshot(self, version: int, skill: float) -> tuple[int, str, SnapshotDigests, list[Canary]]:
        """The arguments of a push of ``skill``, which the trainer holds from now on."""
        before = self.trainer.skill if version > 1 else 0.6
        self.trainer.skill = skill
        path = str(self.run_dir / f"v{version}")
        digests = self.trainer.save_snapshot(path)
        assert digests is not None
        prompt, response = encode("12 +3 *4 -5 " * 3), encode("15\n60\n55\nanswer 55")
        old, new = (fake_logprobs(value, len(prompt), response) for value in (before, skill))
        return version, path, digests, [Canary(prompt, response, old, new)]

    def held(self) -> list[tuple[int, float]]:
        """(version, skill) of every member."""
        asked = [
            m.call("engine_call", name, control=True)
            for m in self.pool.members()
            for name in ("policy_version", "skill")
        ]
        values = [future.result(10) for future in asked]
        return list(zip(values[::2], values[1::2], strict=True))

    def close(self) -> None:
        self.runtime.shutdown()
        for receiver in self.receivers.values():
            receiver.close()
        self.trainer.close()


@pytest.fixture
def make_bench(tmp_path: Path) -> Iterator[Callable[..., Bench]]:
    made: list[Bench] = []

    def make(members: int = 2, **settings: Any) -> Bench:
        made.append(Bench(tmp_path, members, **settings))
        return made[-1]

    Receiver.fault_of, Receiver.context_of, Receiver.gate = {}, {}, threading.Event()
    yield make
    Receiver.gate.set()
    for bench in made:
        bench.close()


def test_two_pushes_through_one_group(make_bench: Callable[..., Bench]):
    bench = make_bench()
    for version, skill in ((1, 0.7), (2, 0.8)):
        facts = bench.pusher.push(*bench.snapshot(version, skill))
        assert bench.held() == [(version, skill)] * 2
        assert (facts.method, facts.why, facts.canaries, facts.num_members) == ("gloo", "", "passed", 2)
        assert facts.worst_nats == facts.cached_prefix_nats == 0.0
        assert facts.separation_nats > 0.01
    assert all(receiver.loaded == [] for receiver in bench.receivers.values())  # nothing came from disk
    assert bench.retries == []


@pytest.mark.parametrize("way", ["push", "confirm"])
def test_a_canary_that_fills_the_context_is_cut_not_refused(make_bench: Callable[..., Bench], way: str):
    """The prompt has 36 tokens and the response 18: together as many as member 1's context."""
    Receiver.context_of = {0: 100, 1: 54}
    bench = make_bench()
    version, path, digests, canaries = bench.snapshot(1, 0.7)
    assert len(canaries[0].prompt_token_ids) + len(canaries[0].token_ids) == 54
    facts = getattr(bench.pusher, way)(version, path, digests, canaries)
    assert bench.held() == [(1, 0.7)] * 2
    assert (facts.canaries, facts.worst_nats, bench.retries) == ("passed", 0.0, [])
    assert [member.name for member in bench.pool.members()] == ["rollout/0", "rollout/1"]  # nobody was replaced


def test_canaries_of_which_nothing_fits_prove_nothing(make_bench: Callable[..., Bench]):
    Receiver.context_of = {0: 36}
    bench = make_bench(1)
    facts = bench.pusher.push(*bench.snapshot(1, 0.7))
    assert (facts.canaries, facts.method, bench.retries) == ("not discriminating", "gloo", [])


@pytest.mark.parametrize("fault", ["stuck", "lost", "broken wire"])
def test_a_push_that_does_not_get_through_is_mended_from_the_snapshot(make_bench: Callable[..., Bench], fault: str):
    bench = make_bench(deadline_s=1.0)
    Receiver.fault_of = {1: fault}
    facts = bench.pusher.push(*bench.snapshot(1, 0.7))
    assert bench.held() == [(1, 0.7)] * 2
    assert [member.name for member in bench.pool.members()] == ["rollout/2", "rollout/3"]  # both may have been stuck
    assert not bench.gang.is_up
    assert (facts.method, facts.canaries) == ("disk", "passed")
    assert facts.why
    assert len(bench.retries) == 1
    if fault == "stuck":
        assert "did not finish within 1 s" in facts.why
    bench.gang.ensure_up()  # the next round: a new group is made and the wire works again
    facts = bench.pusher.push(*bench.snapshot(2, 0.8))
    assert (facts.method, bench.held()) == ("gloo", [(2, 0.8)] * 2)


@pytest.mark.parametrize("call", ["leave_push_group", "join_push_group", "push_specs", "push_weights"])
def test_a_trainer_that_stands_still_in_a_push_ends_with_its_deadline(make_bench: Callable[..., Bench], call: str):
    bench = make_bench(deadline_s=2.0)
    bench.trainer = stuck = StuckTrainer(call)
    bench.gang.kill()
    bench.gang.ensure_up()
    facts = bench.pusher.push(*bench.snapshot(1, 0.7))
    assert not stuck.has_ended.is_set()  # the push did not wait for it
    stuck.gate.set()
    stuck.has_ended.wait(60)
    assert not bench.gang.is_up
    assert (facts.method, facts.canaries, bench.held()) == ("disk", "passed", [(1, 0.7)] * 2)
    assert "trainer/0" in facts.why


def test_what_arrives_is_held_against_the_digests_of_what_is_sent(make_bench: Callable[..., Bench]):
    """Those of the files are not asked on the wire, and those of the wire not on disk."""
    bench = make_bench()
    version, path, digests, canaries = bench.snapshot(1, 0.7)
    altered = dict.fromkeys(digests.stored, "0" * 64)
    assert bench.pusher.push(version, path, replace(digests, stored=altered), canaries).method == "gloo"
    with pytest.raises(PushError, match="1 parameters differ from the snapshot"):
        bench.pusher.push(version, path, replace(digests, wire=altered), canaries)
    bench.pusher.push(version, path, replace(digests, wire=altered), canaries, from_disk=True)


def test_a_snapshot_of_which_nothing_is_known_on_the_wire_is_loaded_from_disk(make_bench: Callable[..., Bench]):
    """As runs recorded them before there were such digests."""
    bench = make_bench()
    version, path, digests, canaries = bench.snapshot(1, 0.7)
    facts = bench.pusher.push(version, path, replace(digests, wire={}), canaries)
    assert (facts.method, facts.why) == ("disk", "the snapshot was recorded without digests of what is sent")
    assert (facts.canaries, bench.held()) == ("passed", [(1, 0.7)] * 2)
    assert bench.retries == []


@pytest.mark.parametrize(
    ("fault", "words"), [("altered", "1 parameters differ from the snapshot"), ("partial", "1 did not arrive")]
)
def test_a_digest_that_differs_stops_the_run(make_bench: Callable[..., Bench], fault: str, words: str):
    bench = make_bench()
    Receiver.fault_of = {1: fault}
    with pytest.raises(PushError, match=words) as caught:
        bench.pusher.push(*bench.snapshot(1, 0.7))
    assert "rollout/1" in str(caught.value)


def test_right_digests_and_old_answers_stop_the_run(make_bench: Callable[..., Bench]):
    bench = make_bench()
    Receiver.fault_of = {0: "unapplied"}
    with pytest.raises(PushError, match="do not hold the weights"):
        bench.pusher.push(*bench.snapshot(1, 0.7))


def test_a_member_that_joins_late_or_behind_catches_up(make_bench: Callable[..., Bench]):
    bench = make_bench(1)
    bench.pusher.push(*bench.snapshot(1, 0.7))
    arguments = bench.snapshot(2, 0.8)
    bench.pool.resize(2)  # starts with version 1, which is what was served when it was made
    bench.wait_ready()
    facts = bench.pusher.confirm(*arguments)
    assert bench.held() == [(2, 0.8)] * 2
    assert (facts.method, facts.num_members, facts.canaries) == ("disk", 2, "passed")
    facts = bench.pusher.push(*bench.snapshot(3, 0.9))  # and the push group is re-made for two
    assert (facts.method, bench.held()) == ("gloo", [(3, 0.9)] * 2)


@pytest.mark.parametrize("way", ["wire", "disk"])
def test_a_member_that_starts_before_a_push_and_joins_in_it_holds_the_new_version(
    make_bench: Callable[..., Bench], way: str
):
    """It was made for version 0 and is not there when the weights are sent; no lease comes before the push has ended."""
    bench = make_bench(1)
    bench.pool.resize(3)
    version, path, digests, canaries = bench.snapshot(1, 0.7)
    assert len(bench.pool.members()) == 1
    facts = bench.pusher.push(version, path, digests, () if way == "wire" else canaries, from_disk=way == "disk")
    assert bench.held() == [(1, 0.7)] * 3
    assert facts.num_members == 3
    loaded = {number: receiver.loaded for number, receiver in bench.receivers.items()}
    assert loaded == ({0: [], 1: [1], 2: [1]} if way == "wire" else {0: [1], 1: [1], 2: [1]})


@pytest.mark.parametrize("way", ["configured", "from_disk", "no trainer"])
def test_from_disk(make_bench: Callable[..., Bench], way: str):
    bench = make_bench(backend="disk" if way == "configured" else "gloo")
    if way == "no trainer":
        bench.gang.kill()
    facts = bench.pusher.push(*bench.snapshot(1, 0.7), from_disk=way == "from_disk")
    assert (facts.method, bench.held()) == ("disk", [(1, 0.7)] * 2)
    assert facts.why == ("configured" if way == "configured" else "the trainer does not hold these weights")


@pytest.mark.parametrize("way", ["push", "confirm"])
def test_a_member_that_dies_between_two_calls_is_replaced(make_bench: Callable[..., Bench], way: str):
    bench = make_bench()
    Receiver.fault_of = {0: "dies when asked"}
    arguments = bench.snapshot(1, 0.7)
    if way == "push":
        assert bench.pusher.push(*arguments).method == "gloo"
    else:
        bench.pusher.confirm(*arguments)
    assert bench.held() == [(1, 0.7)] * 2
    assert {member.name for member in bench.pool.members()} == {"rollout/1", "rollout/2"}


@pytest.mark.parametrize("way", ["push", "confirm"])
def test_a_member_that_reads_other_bytes_from_disk_is_replaced(make_bench: Callable[..., Bench], way: str):
    bench = make_bench()
    Receiver.fault_of = {0: "reads other bytes"}
    arguments = bench.snapshot(1, 0.7)
    if way == "push":
        bench.pusher.push(*arguments, from_disk=True)
    else:
        bench.pusher.confirm(*arguments)
    assert bench.held() == [(1, 0.7)] * 2
    assert {member.name for member in bench.pool.members()} == {"rollout/1", "rollout/2"}


def test_members_that_keep_reading_other_bytes_stop_the_run(make_bench: Callable[..., Bench]):
    bench = make_bench(1)
    Receiver.fault_of = dict.fromkeys(range(99), "reads other bytes")
    with pytest.raises(EngineError, match=r"loaded .*/v1: 1 parameters differ from the snapshot"):
        bench.pusher.push(*bench.snapshot(1, 0.7), from_disk=True)


def test_members_that_keep_dying_stop_the_run(make_bench: Callable[..., Bench]):
    bench = make_bench(1)
    Receiver.fault_of = dict.fromkeys(range(99), "dies when asked")
    with pytest.raises(EngineError, match="died between two calls"):
        bench.pusher.push(*bench.snapshot(1, 0.7))
    assert len(bench.receivers) < 10


# --- adapters alone


def adapters_of(arguments: Any) -> AdapterPush:
    version, _, digests, _ = arguments
    return AdapterPush(digests.wire, 2.0, f"v{version - 1}", f"v{version}")


def test_adapters_go_to_members_that_hold_what_they_were_trained_on(make_bench: Callable[..., Bench]):
    bench = make_bench()
    for version, skill in ((1, 0.7), (2, 0.8)):
        arguments = bench.snapshot(version, skill)
        facts = bench.pusher.push(*arguments, adapters=adapters_of(arguments))
        assert bench.held() == [(version, skill)] * 2
        assert (facts.method, facts.carried, facts.why, facts.canaries) == ("gloo", "adapters", "", "passed")
    assert [(receiver.merged, receiver.loaded) for receiver in bench.receivers.values()] == [([1, 2], [])] * 2
    whole = bench.pusher.push(*bench.snapshot(3, 0.9))
    assert (whole.carried, "carried" in whole.plain()) == ("weights", False)  # reports of other runs have no new key


@pytest.mark.parametrize("fault", ["holds other weights", "its checkpoint is gone"])
def test_a_member_that_cannot_merge_loads_the_snapshot(make_bench: Callable[..., Bench], fault: str):
    """Also one that serves several runs in turn and holds another run's weights of the very version that is pushed."""
    bench = make_bench()
    Receiver.fault_of = {1: fault}
    bench.receivers[1]._version = 1
    arguments = bench.snapshot(1, 0.7)
    facts = bench.pusher.push(*arguments, adapters=adapters_of(arguments))
    assert bench.held() == [(1, 0.7)] * 2
    assert (facts.method, facts.carried, facts.num_members) == ("gloo", "adapters", 2)
    assert facts.why == "1 of 2 engines held other weights and loaded the snapshot"
    assert [(receiver.merged, receiver.loaded) for receiver in bench.receivers.values()] == [([1], []), ([], [1])]
    assert bench.retries == []
    Receiver.fault_of = {}  # from the snapshot it can merge again
    arguments = bench.snapshot(2, 0.8)
    assert bench.pusher.push(*arguments, adapters=adapters_of(arguments)).carried == "adapters"
    assert [receiver.merged for receiver in bench.receivers.values()] == [[1, 2], [2]]


def test_adapters_that_no_member_can_merge_are_not_sent(make_bench: Callable[..., Bench]):
    bench = make_bench()
    Receiver.fault_of = dict.fromkeys(range(2), "holds other weights")
    arguments = bench.snapshot(1, 0.7)
    facts = bench.pusher.push(*arguments, adapters=adapters_of(arguments))
    assert bench.held() == [(1, 0.7)] * 2
    assert (facts.method, facts.carried) == ("disk", "weights")
    assert facts.why == "no engine holds the weights that the adapters were trained on"


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("altered", "1 parameters differ from the snapshot"),
        ("partial", "1 did not arrive"),
        ("unapplied", "do not hold the weights"),
    ],
)
def test_wrong_missing_and_stale_adapters_stop_the_run(make_bench: Callable[..., Bench], fault: str, words: str):
    bench = make_bench()
    Receiver.fault_of = {1: fault}
    arguments = bench.snapshot(1, 0.7)
    with pytest.raises(PushError, match=words):
        bench.pusher.push(*arguments, adapters=adapters_of(arguments))


def test_adapters_that_do_not_get_through_are_mended_from_the_snapshot(make_bench: Callable[..., Bench]):
    """Who was not asked to receive is not stuck, and stays."""
    bench = make_bench(3)
    Receiver.fault_of = {0: "holds other weights", 1: "broken wire"}
    arguments = bench.snapshot(1, 0.7)
    facts = bench.pusher.push(*arguments, adapters=adapters_of(arguments))
    assert bench.held() == [(1, 0.7)] * 3
    assert (facts.method, facts.carried, facts.canaries) == ("disk", "weights", "passed")
    assert [member.name for member in bench.pool.members()] == ["rollout/0", "rollout/3", "rollout/4"]
    assert bench.receivers[0].loaded == [1]
