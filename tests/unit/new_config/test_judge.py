"""Which models an endpoint serves: a server that never comes to an end, or repeats the key."""

from __future__ import annotations

import json

import pytest

from bcpg_cluster.errors import ConfigError
from bcpg_cluster.new_config import judge
from bcpg_cluster.new_config.facts import ModelFacts
from tests.drip_server import DRIPS_AT_MOST, ENDLESS_HEAD, HEAD, DripServer

POLICY = ModelFacts("/models/p")
KEY = "sk-0123456789"


@pytest.mark.parametrize(
    ("at_once", "again"), [(HEAD, b" "), (ENDLESS_HEAD, b" "), (b"HTTP/1.1 200 OK\r\n", b"x: y\r\n")]
)
def test_a_server_that_drips_is_given_up(at_once: bytes, again: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judge, "_WITHIN_S", 0.5)
    server = DripServer(at_once, again)
    with pytest.raises(
        ConfigError, match=r"does not say which models it serves: (no whole answer within 0\.5 s|got more)"
    ):
        judge.read_judge(server.url, None, None, POLICY)
    assert server.num_requests == 1
    assert server.most_drips < DRIPS_AT_MOST
    server.close()


def test_an_answer_without_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judge, "_WITHIN_S", 60.0)
    server = DripServer(ENDLESS_HEAD, b" " * 65536, is_fast=True)
    with pytest.raises(ConfigError, match="does not say which models it serves"):
        judge.read_judge(server.url, None, None, POLICY)
    server.close()


def test_the_key_is_cut_out_of_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JUDGE_KEY", KEY)
    body = json.dumps({"data": [{"id": f"m-{KEY}".replace("s", "\\u0073")}]}).encode()
    head = f"HTTP/1.1 200 OK\r\ncontent-length: {len(body)}\r\n\r\n".encode()
    server = DripServer(head + body, b"")
    facts, said = judge.read_judge(server.url, None, "JUDGE_KEY", POLICY)
    assert facts.section["model"] == "m-***"
    assert KEY not in said
    server.close()
