"""cluster/ray_runtime.py on a real local Ray: one cluster for all of these, tiny hosts."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bcpg_cluster.cluster import pool as pool_module
from bcpg_cluster.cluster.gang import Gang
from bcpg_cluster.cluster.leases import PoolLimits, Work
from bcpg_cluster.cluster.on_ray.runtime import ClusterChoice, RayRuntime
from bcpg_cluster.cluster.pool import Pool
from bcpg_cluster.cluster.runtime import Beating, Member, MemberSpec
from bcpg_cluster.config.run import Config
from bcpg_cluster.errors import DataError, EngineError, MemberLostError, PushError
from bcpg_cluster.run.build.assembly import build_coordinator
from bcpg_cluster.run.directory import open_run
from bcpg_cluster.run.preflight.prompts import read_all_prompts
from bcpg_cluster.run.scaler import PoolBounds, Scaler
from bcpg_cluster.watch.control import Control
from bcpg_cluster.watch.observer import Noted, PoolsSeen, SilentObserver
from tests.told import Heard

pytestmark = pytest.mark.engine

NAMESPACE = "bcpg-tests"


@pytest.fixture(scope="module")
def runtime() -> Iterator[RayRuntime]:
    import ray

    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers cannot import the tests
    made = RayRuntime(
        ClusterChoice("local", "a test"), namespace=NAMESPACE, local_resources={"slot": 1.0}, dashboard=False
    )
    yield made
    made.shutdown()


class Hosted:
    def __init__(self, start: int = 0) -> None:
        self.value = start
        self.is_open = False

    def ping(self) -> str:
        return "ready"

    def facts(self) -> dict[str, Any]:
        return {"pid": os.getpid(), "nice": os.nice(0), "env": os.environ.get("BCPG_TEST"), "value": self.value}

    def wait(self) -> str:
        for _ in range(600):
            if self.is_open:
                return "waited"
            time.sleep(0.05)
        return "too long"

    def open(self) -> None:
        self.is_open = True

    def fail(self, kind: str) -> None:
        if kind == "data":
            raise DataError("this", rule="that", remedy="so")
        raise {"engine": EngineError, "push": PushError, "value": ValueError}[kind](f"a {kind} error")

    def square(self, number: int, patience_s: float = 0.0) -> int:
        time.sleep(patience_s)
        return number * number

    def hold_interpreter(self, seconds: int) -> int:
        import ctypes

        return ctypes.PyDLL(None).sleep(seconds)  # PyDLL keeps the interpreter's lock: no other thread runs meanwhile

    def rendezvous(self) -> tuple[str, int]:
        return "127.0.0.1", 1

    def meet(self, host: str, port: int) -> None:
        pass


class Marking(Hosted):
    num_begun = 0

    def is_on(self) -> bool:
        return self.num_begun == 2

    def hang(self) -> str:
        self.num_begun += 1
        return self.wait()

    def get_on(self) -> str:
        from bcpg_cluster.cluster.liveness.progress import present_work

        self.num_begun += 1
        while not self.is_open:
            present_work().mark()
            time.sleep(0.05)
        return "waited"


def broken(kind: str) -> Any:
    raise EngineError("no memory") if kind == "engine" else ValueError("a bug")


def spec(name: str, **settings: Any) -> MemberSpec:
    return MemberSpec(name, settings.pop("factory", Hosted), settings.pop("arguments", {}), num_cpus=0.01, **settings)


def test_a_member_has_its_name_env_priority_and_arguments(runtime: RayRuntime):
    import ray

    member = runtime.start(spec("facts/0", env={"BCPG_TEST": "½"}, arguments={"start": 7}, resources={"slot": 1.0}))
    facts = member.call("facts").result(60)
    assert (facts["env"], facts["value"]) == ("½", 7)
    assert facts["nice"] == os.nice(0)  # not Ray's 15: imports would crawl on a busy machine
    assert facts["pid"] != os.getpid()
    assert ray.get_actor("facts/0", namespace=NAMESPACE) is not None
    assert runtime.cluster_resources()["slot"] == 1.0
    member.kill()


def test_control_calls_are_answered_while_work_runs(runtime: RayRuntime):
    member = runtime.start(spec("control/0", work_threads=2))
    work = [member.call("wait") for _ in range(2)]
    queued = member.call("square", 3)
    assert member.call("facts", control=True).result(60)["value"] == 0
    assert not any(future.done() for future in (*work, queued))
    member.call("open", control=True).result(60)
    assert [future.result(60) for future in work] == ["waited", "waited"]
    assert queued.result(60) == 9
    member.kill()


def test_a_name_of_a_driver_that_fell_silent_is_taken(runtime: RayRuntime):
    """Its job is still there to Ray, and so are its actors; this one has the run's lock."""
    old = runtime.start(spec("taken/0", arguments={"start": 1}))
    assert old.call("ping").result(60) == "ready"
    new = runtime.start(spec("taken/0", arguments={"start": 2}))
    assert new.call("facts").result(60)["value"] == 2
    with pytest.raises(MemberLostError):
        old.call("facts").result(60)


def test_errors_keep_their_type_and_parts(runtime: RayRuntime):
    member = runtime.start(spec("errors/0"))
    with pytest.raises(DataError) as caught:
        member.call("fail", "data").result(60)
    assert (caught.value.problem, caught.value.rule, caught.value.remedy) == ("this", "that", "so")
    for kind, expected in (("engine", EngineError), ("push", PushError), ("value", ValueError)):
        with pytest.raises(expected, match=f"a {kind} error"):
            member.call("fail", kind, control=True).result(60)
    assert member.call("square", 2).result(60) == 4  # and it lives on
    member.kill()


def test_a_factory_that_fails_says_why_in_every_call(runtime: RayRuntime):
    for number, (kind, words) in enumerate([("engine", "^no memory$"), ("bug", "ValueError: a bug")]):
        member = runtime.start(spec(f"broken/{number}", factory=broken, arguments={"kind": kind}))
        for control in (True, False):
            with pytest.raises(EngineError, match=words) as caught:
                member.call("ping", control=control).result(60)
            assert not isinstance(caught.value, MemberLostError)
        member.kill()


def test_a_member_that_is_gone_answers_so(runtime: RayRuntime):
    killed, died = runtime.start(spec("gone/0")), runtime.start(spec("gone/1"))
    calls = {member: member.call("wait") for member in (killed, died)}
    pid = died.call("facts", control=True).result(60)["pid"]
    killed.call("ping", control=True).result(60)
    killed.kill()
    os.kill(pid, signal.SIGKILL)
    for member, call in calls.items():
        with pytest.raises(MemberLostError, match=member.name):
            call.result(60)
        with pytest.raises(MemberLostError):
            member.call("ping").result(60)
        member.kill()


def test_a_pool_replaces_a_killed_process_and_loses_no_work(runtime: RayRuntime):
    retries: list[str] = []
    pool = Pool(
        "pool", runtime, lambda n: spec(f"pool/{n}", work_threads=2), PoolLimits(leases_per_member=2),
        on_fault=lambda fault: retries.append(fault.what),
    )  # fmt: skip
    pool.resize(2)
    for number in range(12):
        pool.submit(Work((number,), lambda member, n=number: member.call("square", n, 0.1), label=f"square {number}"))
    done: dict[int, int] = {}
    victim: Member | None = None
    deadline = time.monotonic() + 90
    while len(done) < 12:
        assert time.monotonic() < deadline, (done, pool.status(), retries)
        for finished in pool.poll():
            assert finished.key[0] not in done
            done[finished.key[0]] = finished.result
        if victim is None and len(done) >= 2:
            victim = pool.members()[0]
            os.kill(victim.call("facts", control=True).result(60)["pid"], signal.SIGKILL)
        time.sleep(0.02)
    assert done == {number: number * number for number in range(12)}
    assert victim is not None
    assert victim.name in retries
    assert "pool/2" in {status.name for status in pool.status()}
    pool.close()


@pytest.mark.slow  # heartbeats are five seconds apart
@pytest.mark.parametrize("is_continued", [False, True])
def test_a_stopped_process_is_replaced_and_ends(runtime: RayRuntime, is_continued: bool):
    """SIGSTOP: its calls would never end. Continued after it was given up, its late results change nothing."""
    retries: list[tuple[str, str]] = []
    name = f"stop{is_continued:d}"
    pool = Pool(
        name, runtime, lambda n: spec(f"{name}/{n}", work_threads=2),
        PoolLimits(leases_per_member=2, silence_timeout_s=12.0),
        on_fault=lambda fault: retries.append((fault.what, fault.cause)),
    )  # fmt: skip
    pool.resize(2)
    turn_until(lambda: len(pool.members()) == 2, pool.poll, pool.status)
    for number in range(12):
        label = f"square {number}"
        pool.submit(Work((number,), lambda m, n=number, s=label: m.call("square", n, 0.5, label=s), label))
    pool.poll()
    victim = pool.members()[0]
    pid = victim.call("facts", control=True).result(60)["pid"]
    os.kill(pid, signal.SIGSTOP)
    done: dict[int, int] = {}

    def turn() -> None:
        for finished in pool.poll():
            assert finished.key[0] not in done
            done[finished.key[0]] = finished.result
        if is_continued and retries and Path(f"/proc/{pid}").exists():
            os.kill(pid, signal.SIGCONT)

    turn_until(lambda: len(done) == 12, turn, lambda: (done, pool.status(), retries))
    assert done == {number: number * number for number in range(12)}
    assert (victim.name, "did not answer a heartbeat within 12 s") in retries
    assert len(retries) == 3  # the member and its two leases
    turn_until(lambda: not Path(f"/proc/{pid}").exists(), turn, lambda: f"{pid} is still there")
    pool.close()


@pytest.mark.slow
def test_a_call_that_holds_the_interpreter_is_no_silence(runtime: RayRuntime):
    retries: list[tuple[str, str]] = []
    pool = Pool(
        "held", runtime, lambda n: spec(f"held/{n}"), PoolLimits(leases_per_member=1, silence_timeout_s=60.0),
        on_fault=lambda fault: retries.append((fault.what, fault.cause)),
    )  # fmt: skip
    pool.resize(1)
    for number in range(2):
        pool.submit(Work((number,), lambda member: member.call("hold_interpreter", 12), f"held {number}"))
    done: list[Any] = []
    turn_until(lambda: len(done) == 2, lambda: done.extend(pool.poll()), pool.status)
    assert retries == []
    pool.close()


@pytest.mark.slow
def test_work_that_gets_on_is_told_from_work_that_hangs(runtime: RayRuntime):
    """Both calls answer heartbeats; one marks its progress, the other does not."""
    member = runtime.start(spec("marks/0", factory=Marking, work_threads=2))
    calls = [member.call(method, label=method) for method in ("hang", "get_on")]
    assert isinstance(member, Beating)
    turn_until(lambda: member.call("is_on", control=True).result(60), lambda: None, lambda: "not begun")
    idle_s: dict[str, float] = {}
    turn_until(
        lambda: idle_s.get("hang", 0.0) > 10 * idle_s.get("get_on", 0.0) > 0.0,
        lambda: idle_s.update(member.beat().result(60)),
        lambda: idle_s,
    )
    member.call("open", control=True).result(60)
    assert [call.result(60) for call in calls] == ["waited", "waited"]
    assert member.beat().result(60) == {}
    member.kill()


def turn_until(is_so: Callable[[], bool], turn: Callable[[], object], what: Callable[[], object]) -> None:
    deadline = time.monotonic() + 90
    while not is_so():
        assert time.monotonic() < deadline, what()
        turn()
        time.sleep(0.05)


def test_a_member_that_no_node_has_room_for_waits_and_is_seen_to(runtime: RayRuntime, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(pool_module, "_NODE_PATIENCE_S", 0.0)
    limits = PoolLimits(start_timeout_s=60.0, placement_timeout_s=600.0)
    pool = Pool("room", runtime, lambda n: spec(f"room/{n}", resources={"slot": 1.0}), limits)
    pool.resize(2)  # and there is one slot

    def states() -> list[tuple[str, str]]:
        return sorted((member.state, member.name) for member in pool.status())

    turn_until(lambda: [state for state, _ in states()] == ["placing", "ready"], pool.poll, states)
    for _ in range(20):
        pool.poll()
    assert (pool.num_starting, len(pool.members())) == (0, 1)
    ready = pool.members()[0].name
    pool.lose(pool.members()[0], "to make room")  # its replacement stands behind the one that waits
    turn_until(lambda: [state for state, _ in states()] == ["placing", "ready"], pool.poll, states)
    assert pool.members()[0].name != ready
    pool.close()


def test_a_pool_of_actors_grows_by_its_queue_and_drains_when_a_person_asks(runtime: RayRuntime, tmp_path: Path):
    observer = Heard()
    pool = Pool("grow", runtime, lambda n: spec(f"grow/{n}", work_threads=1), PoolLimits(leases_per_member=1))
    pool.resize(1)
    gang = Gang("trainer", runtime, lambda group, rank: spec(f"none/{rank}"), 1)
    scaler = Scaler(
        {"grow": pool}, gang, {"grow": PoolBounds(1, 3, {}, 2.0)},
        observer=observer, control=Control(tmp_path), served_version=lambda: 0, every_s=0.0,
    )  # fmt: skip
    for number in range(6):
        pool.submit(Work((number,), lambda member: member.call("wait"), label=f"piece {number}"))
    done: list[tuple[Any, ...]] = []

    def turn() -> None:
        scaler.tend()
        done.extend(finished.key for finished in pool.poll())

    turn_until(lambda: pool.num_leased == 3, turn, pool.status)
    assert [event.text for event in observer.of(Noted)] == ["grow: 1 -> 3 members (6 pieces of work for 2 a member)"]
    control = Control(tmp_path)
    request = control.ask({"grow": 1}, "somebody")
    turn()
    answer = control.answer_to(request)
    assert answer is not None
    assert answer.changes == {"grow": (3, 1)}
    members = list(pool._slots)
    assert [slot.is_draining for slot in members].count(True) == 2
    assert pool.num_leased == 3  # a shrinking pool takes nothing away
    victim = next(slot for slot in members if slot.is_draining)
    os.kill(victim.member.call("facts", control=True).result(60)["pid"], signal.SIGKILL)

    def open_all() -> None:
        for member in {status.name for status in pool.status()}:
            slot = next(slot for slot in pool._slots if slot.member.name == member)
            slot.member.call("open", control=True)
        turn()

    turn_until(lambda: len(done) == 6, open_all, lambda: (done, pool.status()))
    assert sorted(done) == [(number,) for number in range(6)]  # what the killed one had was done by another
    turn_until(lambda: len(pool.status()) == 1, turn, pool.status)
    assert {event.states[0].sized_by for event in observer.of(PoolsSeen)} == {"queue", "person"}
    pool.close()


def test_a_gang_that_loses_a_rank_is_made_anew(runtime: RayRuntime):
    gang = Gang("gang", runtime, lambda group, rank: spec(f"gang/{rank}.{group}"), 2)
    gang.ensure_up()
    pids = [facts["pid"] for facts in gang.call_all("facts")]
    calls = gang.submit_all("wait")
    os.kill(pids[1], signal.SIGKILL)
    with pytest.raises(MemberLostError):
        calls[1].result(60)
    with pytest.raises(MemberLostError):
        gang.call_all("facts")
    assert not gang.is_up
    gang.ensure_up()
    assert not set(pids) & {facts["pid"] for facts in gang.call_all("facts")}
    gang.kill()


def test_a_round_of_fakes_in_processes_of_their_own(
    runtime: RayRuntime, tmp_path: Path, make_config: Callable[..., Config], finished_run: Any
):
    """The same results as on threads; nothing but the runtime differs."""
    pools = {name: {"num_cpus": 0.01} for name in ("rollout", "cpu", "trainer")}
    config = make_config(pools=pools)
    with open_run(tmp_path / "run", config) as manifest:
        prompts = read_all_prompts(config)
        reports = build_coordinator(config, manifest, runtime, SilentObserver(), lambda: False, prompts).run(1)
    for key in ("accuracy", "accuracy_greedy", "samples", "mined_share", "per_problem"):
        assert reports[1].plain()[key] == finished_run.reports[1][key]
    assert reports[1].push.method == "gloo"
