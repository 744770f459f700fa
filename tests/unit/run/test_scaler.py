"""scaler.py and control.py: pools follow their queues and what people ask for."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bcpg_cluster.cluster.leases import PoolLimits, Work
from bcpg_cluster.cluster.pool import Pool
from bcpg_cluster.cluster.runtime import MemberSpec
from bcpg_cluster.cluster.state import PoolState
from bcpg_cluster.errors import DataError, EngineError, UserError
from bcpg_cluster.run.scaler import PoolBounds, Scaler
from bcpg_cluster.watch.control import Control, check_sizes
from bcpg_cluster.watch.observer import Noted, PoolsSeen
from tests.told import Heard


class Listener(Heard):
    @property
    def notes(self) -> list[str]:
        return [event.text for event in self.of(Noted)]

    @property
    def seen(self) -> list[list[PoolState]]:
        return [list(event.states) for event in self.of(PoolsSeen)]


class Bench:
    """Pools ``judge`` (1 to 4 members, one for two pieces of work) and ``rollout`` (1 to 2, sized by people alone)."""

    def __init__(self, folder: Path, scripted: Any, clock: Any) -> None:
        self.scripted, self.clock, self.listener = scripted, clock, Listener()
        self.pools = {name: self._pool(name) for name in ("rollout", "judge")}
        for pool in self.pools.values():
            pool.resize(1)
        self.control = Control(folder)
        gang = SimpleNamespace(size=2, status=lambda: [("trainer/0", "ready"), ("trainer/1", "starting")])
        self.scaler = Scaler(
            self.pools,
            gang,  # type: ignore[arg-type]
            {
                "rollout": PoolBounds(1, 2, {}),
                "judge": PoolBounds(1, 4, {"judge": 1.0}, 2.0, 60.0),
                "trainer": PoolBounds(2, 2, {}),
            },
            observer=self.listener,
            control=Control(folder),
            served_version=lambda: 7,
            clock=clock,
        )

    def _pool(self, name: str) -> Pool:
        def spec(number: int) -> MemberSpec:
            return MemberSpec(f"{name}/{number}", dict, {})

        return Pool(name, self.scripted, spec, PoolLimits(leases_per_member=1, max_attempts=2), clock=self.clock)

    def start(self) -> None:
        for call in self.scripted.of("ping"):
            if not call.answer.done():
                call.answer.set_result("ready")

    def submit(self, *keys: int) -> None:
        for key in keys:
            self.pools["judge"].submit(
                Work((key,), lambda member, key=key: member.call("run", key), label=f"piece {key}")
            )

    def finish(self, *keys: int) -> None:
        for call in self.scripted.of("run"):
            if call.args[0] in keys and not call.answer.done():
                call.answer.set_result(call.args[0])

    def turn(self, passed_s: float = 1.0) -> list[Any]:
        """A turn of the run's loop."""
        self.clock.now += passed_s
        self.scaler.tend()
        self.start()
        return [done.key[0] for done in self.pools["judge"].poll()]

    def sizes(self) -> dict[str, int]:
        return {name: pool.size for name, pool in self.pools.items()}


@pytest.fixture
def bench(tmp_path: Path, scripted: Any, clock: Any) -> Bench:
    return Bench(tmp_path, scripted, clock)


def test_the_pool_follows_its_queue_and_nothing_is_lost(bench: Bench):
    bench.submit(*range(7))
    done = bench.turn()
    assert bench.sizes() == {"rollout": 1, "judge": 4}
    assert bench.listener.notes == ["judge: 1 -> 4 members (7 pieces of work for 2 a member)"]
    done += bench.turn()
    assert len(bench.scripted.of("run")) == 4  # the new members got work
    for _ in range(3):
        bench.finish(*range(7))
        done += bench.turn()
    assert sorted(done) == list(range(7))
    bench.turn(54.0)
    assert bench.sizes()["judge"] == 4  # two pieces or none for less than a minute
    bench.turn(10.0)
    bench.turn()
    assert bench.sizes()["judge"] == 1
    assert [state.count("ready") for state in bench.listener.seen[-1]] == [1, 1, 1]
    assert [member.is_killed for member in bench.scripted.members].count(True) == 3


def test_it_looks_once_a_second_and_tells_the_observer(bench: Bench):
    for _ in range(10):
        bench.turn(0.25)
    assert len(bench.listener.seen) == 3
    rollout, judge, trainer = bench.listener.seen[-1]
    assert [member.policy_version for member in rollout.members] == [7]
    assert [member.policy_version for member in judge.members] == [None]
    assert (judge.low, judge.high, judge.sized_by, judge.needs) == (1, 4, "queue", {"judge": 1.0})
    assert (rollout.sized_by, trainer.sized_by) == ("config", "config")
    assert [(member.name, member.state) for member in trainer.members] == [
        ("trainer/0", "ready"),
        ("trainer/1", "starting"),
    ]


def test_a_person_decides_until_the_pool_is_given_back(bench: Bench):
    bench.submit(*range(8))
    bench.turn()
    request = bench.control.ask({"judge": 2, "rollout": 2}, "somebody")
    assert bench.control.answer_to(request) is None
    bench.turn()
    answer = bench.control.answer_to(request)
    assert answer is not None
    assert answer.changes == {"judge": (4, 2), "rollout": (1, 2)}
    assert bench.control.answer_to(request) is None  # once
    bench.submit(*range(8, 40))
    bench.turn(100.0)
    assert bench.sizes() == {"rollout": 2, "judge": 2}
    assert [state.sized_by for state in bench.listener.seen[-1]] == ["person", "person", "config"]
    assert "judge: 4 -> 2 members (asked for by somebody)" in bench.listener.notes
    back = bench.control.ask({"judge": None}, "somebody")
    bench.turn()
    answer = bench.control.answer_to(back)
    assert answer is not None
    assert answer.changes == {"judge": (2, 4)}
    assert bench.listener.seen[-1][1].sized_by == "queue"


def test_a_request_is_done_whole_or_not_at_all(bench: Bench):
    request = bench.control.ask({"rollout": 2, "judge": 9}, "somebody")
    bench.turn()
    answer = bench.control.answer_to(request)
    assert answer is not None
    assert answer.changes is None
    assert "judge cannot have 9 members: pools.judge.max is 4" in answer.problem
    assert bench.sizes() == {"rollout": 1, "judge": 1}
    assert bench.listener.seen[-1][0].sized_by == "config"


@pytest.mark.parametrize(
    ("sizes", "words"),
    [
        ({"judge.x": 2}, ["unknown pool 'judge.x'", "rollout, judge, trainer"]),
        ({"trainer": 4}, ["trainer group cannot be resized", "pools.trainer.members"]),
        ({"judge": 0}, ["pools.judge.min is 1", "1 to 4", "--set pools.judge.min=1"]),
        ({"judge": 5}, ["pools.judge.max is 4", "1 to 4", "--set pools.judge.max=5"]),
        ({"rollout": None}, ["it has none", "pools.rollout.target_queue_per_actor"]),
    ],
)
def test_bad_requests_say_what_is_wrong(bench: Bench, sizes: dict[str, int | None], words: list[str]):
    with pytest.raises(UserError) as caught:
        check_sizes(sizes, bench.scaler.states())
    for word in words:
        assert word in str(caught.value)


def test_what_was_asked_of_an_earlier_process_is_void(tmp_path: Path, scripted: Any, clock: Any):
    before = Control(tmp_path).ask({"judge": 3}, "somebody")
    bench = Bench(tmp_path, scripted, clock)
    bench.turn()
    assert bench.sizes()["judge"] == 1
    assert not bench.control.withdraw(before)


def test_a_request_can_be_taken_back_until_it_is_taken_up(bench: Bench):
    request = bench.control.ask({"judge": 3}, "somebody")
    assert bench.control.withdraw(request)
    bench.turn()
    assert bench.sizes()["judge"] == 1
    request = bench.control.ask({"judge": 3}, "somebody")
    bench.turn()
    assert not bench.control.withdraw(request)


def test_files_that_are_no_requests_do_no_harm(bench: Bench, tmp_path: Path):
    folder = tmp_path / "control"
    folder.mkdir()
    (folder / "torn.request.json").write_text('{"id": "x", ')
    (folder / "other.request.json").write_text(json.dumps({"id": "x", "colour": 3}))
    (folder / "notes.txt").write_text("mine")
    bench.turn()
    assert [path.name for path in folder.iterdir()] == ["notes.txt"]


def test_members_come_and_go_while_nobody_polls_their_pool(bench: Bench):
    """As in training: the run waits for the trainers, and only tends its pools."""
    bench.start()
    bench.clock.now += 1
    bench.scaler.tend()
    bench.control.ask({"rollout": 2}, "somebody")
    for _ in range(3):
        bench.clock.now += 1
        bench.scaler.tend()
        bench.start()
    assert bench.listener.seen[-1][0].count("ready") == 2
    bench.control.ask({"rollout": 1}, "somebody")
    for _ in range(2):
        bench.clock.now += 1
        bench.scaler.tend()
    assert [len(state.members) for state in bench.listener.seen[-1]] == [1, 1, 2]


def test_a_pool_that_cannot_start_says_so_when_it_is_needed(bench: Bench):
    """Not in the middle of a training, which does not need it."""
    for _ in range(4):
        for call in bench.scripted.of("ping"):
            if not call.answer.done():
                call.answer.set_exception(EngineError("no memory"))
        bench.clock.now += 1
        bench.scaler.tend()
    for _ in range(2):
        with pytest.raises(EngineError, match=r"did not start: no memory \(the last of 2 tries\)"):
            bench.pools["judge"].poll()


def test_bad_input_that_a_member_finds_stops_the_run_at_once(bench: Bench):
    bench.scripted.of("ping")[0].answer.set_exception(DataError("this", rule="that", remedy="so"))
    bench.clock.now += 1
    with pytest.raises(DataError):
        bench.scaler.tend()


def test_waiting_for_a_node_is_told_once(bench: Bench, monkeypatch: pytest.MonkeyPatch):
    waiting = True
    start = bench.scripted.start

    def start_unplaced(spec: Any) -> Any:
        member = start(spec)
        member.is_placed = lambda: not waiting
        return member

    monkeypatch.setattr(bench.scripted, "start", start_unplaced)
    bench.turn()
    bench.control.ask({"judge": 3}, "somebody")
    told: Callable[[], list[str]] = lambda: [note for note in bench.listener.notes if "node" in note]  # noqa: E731
    for _ in range(5):
        bench.clock.now += 1
        bench.scaler.tend()
    assert told() == []  # Ray takes a while to start a process
    for _ in range(30):
        bench.clock.now += 1
        bench.scaler.tend()
    assert told() == ["judge: 2 of 3 members wait for a node with {judge: 1}"]
    assert bench.listener.seen[-1][1].count("placing") == 2
    waiting = False
    for _ in range(3):
        bench.turn()
    assert told()[1:] == ["judge: no member waits for a node any more"]
    assert bench.listener.seen[-1][1].count("ready") == 3
