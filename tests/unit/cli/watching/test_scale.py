"""cli scale: what is asked, and what is said when no answer comes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bcpg_cluster.errors import UserError
from bcpg_cluster.watch.control import Answer, Control
from bcpg_cluster_cli.watching.scale import read_sizes, wait_for_answer


def test_sizes():
    assert read_sizes(["judge.llm=4", "prm=auto", "rollout=0"]) == {"judge.llm": 4, "prm": None, "rollout": 0}


@pytest.mark.parametrize("asked", ["judge.llm", "judge.llm=", "=4", "judge.llm=-1", "judge.llm=4.5", "a b=3", "p=many"])
def test_what_is_no_size(asked: str):
    with pytest.raises(UserError, match="is not POOL=MEMBERS"):
        read_sizes([asked])


def test_a_pool_named_twice():
    with pytest.raises(UserError, match="names a pool twice"):
        read_sizes(["prm=1", "prm=2"])


def test_no_answer_in_time_takes_the_request_back(tmp_path: Path, clock: Any):
    control = Control(tmp_path)
    request = control.ask({"prm": 2}, "somebody")

    def sleep(seconds: float) -> None:
        clock.now += seconds

    with pytest.raises(UserError, match="did not answer within 5 s; the request is withdrawn"):
        wait_for_answer(control, request, 5.0, lambda: None, clock=clock, sleep=sleep)
    assert list(control.take()) == []


def test_an_answer_that_comes_late_still_counts(tmp_path: Path, clock: Any):
    """The run took the request up just before the end of patience."""
    control = Control(tmp_path)
    request = control.ask({"prm": 2}, "somebody")
    assert [taken.id for taken in control.take()] == [request.id]

    def sleep(seconds: float) -> None:
        clock.now += seconds
        if clock.now > 1010:
            control.answer(Answer(request.id, {"prm": (1, 2)}))

    assert wait_for_answer(control, request, 5.0, lambda: None, clock=clock, sleep=sleep).changes == {"prm": (1, 2)}


def test_a_run_that_dies_meanwhile_is_noticed(tmp_path: Path, clock: Any):
    control = Control(tmp_path)
    request = control.ask({"prm": 2}, "somebody")

    def sleep(seconds: float) -> None:
        clock.now += seconds

    def check() -> None:
        raise UserError("gone", rule="", remedy="")

    with pytest.raises(UserError, match="gone"):
        wait_for_answer(control, request, 60.0, check, clock=clock, sleep=sleep)
    assert not control.withdraw(request)
