"""cluster/link.py: a head that is silent for too long fails what waits for it."""

from __future__ import annotations

import socket
from concurrent.futures import Future
from typing import Any

import pytest

from bcpg_cluster.cluster.on_ray.link import Link, answers
from bcpg_cluster.errors import ClusterLostError


class Head:
    def __init__(self) -> None:
        self.is_there, self.now = True, 0.0
        self.lost: list[ClusterLostError] = []
        self.link = Link(
            "head:1",
            patience_s=30.0,
            on_lost=self.lost.append,
            look=lambda address: self.is_there,
            clock=lambda: self.now,
        )

    def at(self, now: float) -> None:
        self.now = now
        self.link.look_now()


def test_a_silent_head_fails_calls_under_way_and_later_ones():
    head, early, late = Head(), Future[Any](), Future[Any]()
    head.link.watch_over(early)
    head.at(10)
    head.is_there = False
    head.at(39)
    assert not early.done()
    head.at(41)
    head.link.watch_over(late)
    for answer in (early, late):
        with pytest.raises(ClusterLostError, match="its head at head:1 has not answered for 30 s"):
            answer.result(0)
    with pytest.raises(ClusterLostError):
        head.link.raise_if_lost()
    head.is_there = True
    head.at(50)
    assert len(head.lost) == 1
    assert head.link.is_lost  # its members are gone, whatever answers now


def test_a_head_that_comes_back_in_time_is_not_lost():
    head, answer = Head(), Future[Any]()
    head.link.watch_over(answer)
    head.is_there = False
    head.at(25)
    head.is_there = True
    head.at(28)
    head.is_there = False
    head.at(57)
    assert not head.link.is_lost and head.lost == []
    head.link.raise_if_lost()
    answer.set_result(7)
    head.at(59)
    assert head.link.is_lost
    assert answer.result(0) == 7


def test_what_listens_answers():
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        assert answers(address)
    assert not answers(address)
    assert not answers("nonsense")
    assert not answers("127.0.0.1:99999")
