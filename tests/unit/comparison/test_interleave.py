"""comparison/interleave.py: which of several runs has the trainers and which the pools, and what a failure does to the others."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from bcpg_cluster.comparison.interleave import interleave
from bcpg_cluster.errors import Interrupted, TrainingDivergedError
from bcpg_cluster.run.steps import Steps, TrainersFree, Training, alone
from bcpg_cluster.store.manifest import SnapshotRecord

PATIENCE_S = 30.0


class Members:
    """What a schedule asks of a workforce."""

    def __init__(self) -> None:
        self.given_up = threading.Event()

    def serve(self, hooks: object) -> None:
        """Nobody to tell."""

    def tend(self) -> None:
        """Nothing to tend."""

    @contextmanager
    def without_training(self) -> Iterator[None]:
        self.given_up.set()
        yield
        self.given_up.clear()


class Runs:
    """Runs that note what they do. ``together`` are pairs of pieces that wait for each other: each begins while the other works."""

    def __init__(self, *together: tuple[str, str]) -> None:
        self.members = Members()
        self.log: list[str] = []
        self.closed: list[str] = []
        self._meetings = {
            piece: barrier for pair in together for barrier in [threading.Barrier(2)] for piece in pair
        }  # fmt: skip

    def do(self, piece: str) -> None:
        self.log.append(piece)
        if piece in self._meetings:
            self._meetings[piece].wait(PATIENCE_S)

    def run(self, name: str, rounds: int = 1) -> Steps[str]:
        try:
            for round_ in range(1, rounds + 1):
                self.do(f"weigh {name}{round_}")
                training = Training(lambda round_=round_: self._train(f"{name}{round_}"))
                yield training
                training.result()
                self.do(f"push {name}{round_}")
                yield TrainersFree()
                self.do(f"evaluate {name}{round_}")
        except GeneratorExit:
            self.closed.append(name)
            raise
        return name

    def _train(self, piece: str) -> SnapshotRecord:
        self.do(f"train {piece}")
        self.log.append(f"trained {piece}")
        return SnapshotRecord(1, "", {}, 0.0)


def place(runs: Runs, piece: str) -> int:
    return runs.log.index(piece)


def test_one_trains_while_another_is_measured():
    runs = Runs(("train b1", "evaluate a1"), ("train c1", "evaluate b1"))
    assert list(interleave((runs.run(name) for name in "abc"), runs.members)) == ["a", "b", "c"]
    for before, after in ("ab", "bc"):  # trainers go from one to the next when its weights are pushed, and not sooner
        assert place(runs, f"push {before}1") < place(runs, f"train {after}1")
        assert place(runs, f"trained {before}1") < place(runs, f"push {before}1")
    assert place(runs, "weigh c1") < place(runs, "push b1")  # its rows are ready when the trainers are free


def test_rounds_of_two_runs_take_turns():
    runs = Runs(("train b1", "evaluate a1"), ("train a2", "evaluate b1"), ("train b2", "evaluate a2"))
    assert list(interleave((runs.run(name, rounds=2) for name in "ab"), runs.members)) == ["a", "b"]


def test_each_run_does_what_it_does_alone():
    together, apart = Runs(), Runs()
    list(interleave((together.run(name, rounds=2) for name in "abc"), together.members))
    for name in "abc":
        alone(apart.run(name, rounds=2))
    assert sorted(together.log) == sorted(apart.log)
    for name in "abc":
        of_run = [[piece for piece in runs.log if piece.split()[1][0] == name] for runs in (together, apart)]
        assert of_run[0] == of_run[1]


def test_never_more_than_two_are_under_way():
    runs = Runs()
    begun: list[str] = []

    def lazily() -> Iterator[Steps[str]]:
        for name in "abcd":
            ended = {piece.split()[1][0] for piece in runs.log if piece.startswith("evaluate")}
            assert len(set(begun) - ended) < 2
            begun.append(name)
            yield runs.run(name)

    assert list(interleave(lazily(), runs.members)) == ["a", "b", "c", "d"]


def test_runs_without_training_need_no_trainers():
    runs = Runs()

    def measured(name: str) -> Steps[str]:
        yield TrainersFree()  # it was trained before
        return name

    assert list(interleave([measured("x"), runs.run("a"), measured("y")], runs.members)) == ["x", "y", "a"]
    assert list(interleave([], runs.members)) == []


def test_a_training_that_fails_is_its_own_runs_matter():
    runs = Runs()

    def diverging() -> Steps[str]:
        training = Training(diverge)
        yield training
        with pytest.raises(TrainingDivergedError):
            training.result()
        return "diverged"

    def diverge() -> SnapshotRecord:
        raise TrainingDivergedError("step 3: the loss is nan")

    assert list(interleave([runs.run("a"), diverging(), runs.run("b")], runs.members)) == ["a", "diverged", "b"]


def test_a_failure_ends_what_is_under_way_where_it_resumes():
    runs = Runs()
    training_a = threading.Event()

    def until_given_up() -> SnapshotRecord:
        training_a.set()
        assert runs.members.given_up.wait(PATIENCE_S)
        raise Interrupted("stopped in training")

    def long() -> Steps[str]:
        try:
            yield Training(until_given_up)
        except GeneratorExit:
            runs.closed.append("long")
            raise
        return "long"

    def failing() -> Steps[str]:
        assert training_a.wait(PATIENCE_S)
        raise RuntimeError("a disk is full")
        yield TrainersFree()

    with pytest.raises(RuntimeError, match="a disk is full"):
        list(interleave([long(), failing(), runs.run("never")], runs.members))
    assert runs.closed == ["long"] and runs.log == []
    assert not runs.members.given_up.is_set()  # the members may train again


def test_a_consumer_that_stops_ends_the_others():
    runs = Runs()
    ends = interleave((runs.run(name) for name in "abc"), runs.members)
    assert next(ends) == "a"
    ends.close()
    assert runs.closed == ["b"]


def test_alone_raises_what_a_training_raised():
    def stop() -> SnapshotRecord:
        raise Interrupted("stopped in training")

    def run() -> Steps[None]:
        training = Training(stop)
        yield training
        training.result()

    with pytest.raises(Interrupted, match="stopped in training"):
        alone(run())


def test_a_run_that_trains_twice_in_a_row_loses_no_other():
    """Something was damaged and is trained again: the run asks for the trainers while another waits for them."""
    runs = Runs()

    def twice() -> Steps[str]:
        for _ in range(2):
            training = Training(lambda: runs._train("a1"))
            yield training
            training.result()
        yield TrainersFree()
        return "a"

    assert sorted(interleave(iter([twice(), runs.run("b"), runs.run("c")]), runs.members)) == ["a", "b", "c"]
    assert runs.closed == []
