"""on_ray/exhausted.py, by the way of a call's end in ``runtime``: Ray's own errors for want of room name a remedy."""

from __future__ import annotations

from concurrent.futures import Future
from typing import Any

import pytest

from bcpg_cluster.cluster.on_ray.runtime import _settle
from bcpg_cluster.errors import EngineError, MemberLostError


def _end_of(error: Exception) -> BaseException | None:
    answer, done = Future[Any](), Future[Any]()
    done.set_exception(error)
    _settle(answer, done, "judge.llm/0")
    return answer.exception()


@pytest.mark.parametrize(
    ("kind", "remedy"),
    [
        ("ObjectStoreFullError", "object store more room"),
        ("OutOfDiskError", "make room on the disk"),
        ("OutOfMemoryError", "fewer members"),
    ],
)
def test_a_member_whose_node_is_full_is_lost_with_a_remedy(kind: str, remedy: str) -> None:
    from ray import exceptions

    error = _end_of(getattr(exceptions, kind)("no room"))
    assert isinstance(error, MemberLostError)
    assert str(error).startswith(f"{kind}: judge.llm/0: ")
    assert remedy in str(error).partition("remedy: ")[2]
    inside = _end_of(exceptions.RayTaskError("run", "traceback", getattr(exceptions, kind)("no room")))
    assert isinstance(inside, EngineError)
    assert remedy in str(inside).partition("remedy: ")[2]


def test_other_losses_are_told_as_they_are() -> None:
    from ray.exceptions import ActorDiedError

    assert "remedy" not in str(_end_of(ActorDiedError()))
