"""run/pipeline/beside.py: who works in which thread, and how errors of either end both."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from bcpg_cluster.errors import BcpgError, EngineError, Interrupted
from bcpg_cluster.run.pipeline.beside import train_beside
from bcpg_cluster.run.steps import Steps, TrainersFree, Training, alone
from bcpg_cluster.store.manifest import SnapshotRecord
from bcpg_cluster_cli.endings import say_and_code

RECORD = SnapshotRecord(1, "", {}, 0.0)


def steps(training: Training) -> Steps[SnapshotRecord]:
    yield TrainersFree()
    yield training
    return training.result()


def drive(training: Training, without_training: Callable[[], object] | None = None) -> SnapshotRecord:
    @contextmanager
    def given_up() -> Iterator[None]:
        if without_training is not None:
            without_training()
        yield

    return train_beside(steps(training), lambda: None, given_up)


def test_both_are_under_way_at_once():
    meeting = threading.Barrier(2, timeout=60)
    threads: dict[str, str] = {}

    def train() -> SnapshotRecord:
        threads["train"] = threading.current_thread().name
        meeting.wait()
        return RECORD

    def meanwhile(training: Training) -> None:
        assert training.ended is None
        threads["meanwhile"] = threading.current_thread().name
        meeting.wait()

    training = Training(train, meanwhile)
    assert drive(training) is RECORD
    assert threads["meanwhile"] == threading.current_thread().name != threads["train"]
    assert training.ended is not None


def test_alone_does_only_what_has_to_be_done():
    done: list[Training] = []
    training = Training(lambda: RECORD, done.append)
    assert alone(steps(training)) is RECORD
    assert done == []


def test_an_error_of_the_training_is_raised_by_the_run():
    def train() -> SnapshotRecord:
        raise ValueError("diverged")

    done: list[Training] = []
    with pytest.raises(ValueError, match="diverged"):
        drive(Training(train, done.append))
    assert len(done) == 1


def test_an_error_beside_it_ends_the_training():
    is_given_up, has_ended = threading.Event(), []

    def train() -> SnapshotRecord:
        assert is_given_up.wait(60), "the training was not given up"
        has_ended.append(True)
        return RECORD

    def meanwhile(training: Training) -> None:
        raise KeyError("beside")

    with pytest.raises(KeyError, match="beside"):
        drive(Training(train, meanwhile), is_given_up.set)
    assert has_ended == [True]


def both_fail(of_training: BaseException) -> BcpgError:
    """What the run raises where work beside the training fails, and the training is given up with another error."""
    is_given_up = threading.Event()

    def train() -> SnapshotRecord:
        assert is_given_up.wait(60), "the training was not given up"
        raise of_training

    def meanwhile(training: Training) -> None:
        raise EngineError("no engine is left")

    with pytest.raises(EngineError, match="no engine is left") as caught:
        drive(Training(train, meanwhile), is_given_up.set)
    return caught.value


def test_where_both_fail_both_are_told(capsys: pytest.CaptureFixture[str]):
    assert say_and_code(both_fail(ValueError("diverged"))) == 1
    said = capsys.readouterr().err
    assert "EngineError: no engine is left" in said
    assert "the training beside it failed too: ValueError: diverged" in said


def test_a_training_that_was_only_given_up_is_not_told():
    assert not hasattr(both_fail(Interrupted("stopped")), "__notes__")
