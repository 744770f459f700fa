"""cluster/on_ray/link.py: a head or an own node that is silent for too long fails what waits for it."""

from __future__ import annotations

import socket
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest

from bcpg_cluster.cluster.on_ray.link import Link, answers, head, own_node, replies
from bcpg_cluster.errors import ClusterLostError


class Cluster:
    def __init__(self) -> None:
        self.is_there, self.has_node, self.now = True, True, 0.0
        self.lost: list[ClusterLostError] = []
        self.link = Link(
            head("head:1"),
            own_node("node:2"),
            patience_s=30.0,
            on_lost=self.lost.append,
            look=lambda address: {"head:1": self.is_there, "node:2": self.has_node}[address],
            clock=lambda: self.now,
        )

    def at(self, now: float) -> None:
        self.now = now
        self.link.look_now()


def test_a_silent_head_fails_calls_under_way_and_later_ones():
    cluster, early, late = Cluster(), Future[Any](), Future[Any]()
    cluster.link.watch_over(early)
    cluster.at(10)
    cluster.is_there = False
    cluster.at(39)
    assert not early.done()
    cluster.at(41)
    cluster.link.watch_over(late)
    for answer in (early, late):
        with pytest.raises(ClusterLostError, match="its head at head:1 has not answered for 30 s"):
            answer.result(0)
    with pytest.raises(ClusterLostError):
        cluster.link.raise_if_lost()
    cluster.is_there = True
    cluster.at(50)
    assert len(cluster.lost) == 1
    assert cluster.link.is_lost  # its members are gone, whatever answers now


def test_a_head_that_comes_back_in_time_is_not_lost():
    cluster, answer = Cluster(), Future[Any]()
    cluster.link.watch_over(answer)
    cluster.is_there = False
    cluster.at(25)
    cluster.is_there = True
    cluster.at(28)
    cluster.is_there = False
    cluster.at(57)
    assert not cluster.link.is_lost and cluster.lost == []
    cluster.link.raise_if_lost()
    answer.set_result(7)
    cluster.at(59)
    assert cluster.link.is_lost
    assert answer.result(0) == 7


def test_a_lost_node_of_this_command_is_a_lost_cluster():
    """Its head answers on: whatever is asked for is never started."""
    cluster, early = Cluster(), Future[Any]()
    cluster.link.watch_over(early)
    cluster.has_node = False
    cluster.at(29)
    assert not early.done()
    cluster.at(31)
    words = "the raylet of this command's own node at node:2 has not answered for 30 s"
    with pytest.raises(ClusterLostError, match=words):
        early.result(0)
    cluster.is_there = False
    cluster.at(90)
    assert len(cluster.lost) == 1


def test_a_stopped_server_takes_connections_and_does_not_reply():
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        assert answers(address)
        assert not replies(address, timeout_s=0.1)
    assert not replies(address)
    assert not replies("nonsense")


def test_a_grpc_server_replies():
    import grpc

    server = grpc.server(ThreadPoolExecutor(1))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    assert replies(f"127.0.0.1:{port}", timeout_s=20)
    server.stop(None).wait(20)
    assert not replies(f"127.0.0.1:{port}")


def test_what_listens_answers():
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        assert answers(address)
    assert not answers(address)
    assert not answers("nonsense")
    assert not answers("127.0.0.1:99999")
