"""A cascade behind a judge of several votes, over steps that the later judge's model cut: pools side by side and in turns."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bcpg_cluster.config.run import Config
from bcpg_cluster.store.manifest import read_manifest
from bcpg_cluster.store.rows import Row
from bcpg_cluster.store.shards import read_table
from tests.judge_server import Server, asked, completion, sends, verdicts

SHARE_WRONG = {"voting": 60, "dear": 90}  # of 256


def play(request: dict[str, Any]) -> tuple[int, dict[str, str], bytes]:
    """Every line begins a step; a verdict follows from the request's content and seed."""
    text = request["messages"][1]["content"]
    lines = re.search(r"Which of the lines (\d+) to (\d+) begin", text)
    if lines:
        return sends(completion(json.dumps({"starts": list(range(int(lines[1]), int(lines[2]) + 1))})))(request)
    first, last = asked(request)
    drawn = {
        step: hashlib.sha256(f"{request['model']}{text}{request.get('seed')}{step}".encode()).digest()[0]
        for step in range(first, last + 1)
    }
    wrong = tuple(step for step, value in drawn.items() if value < SHARE_WRONG[request["model"]])
    return sends(completion(verdicts(first, last, wrong)))(request)


@pytest.fixture
def server() -> Iterator[Server]:
    one = Server()
    one.plays = [play] * 100_000
    yield one
    one.close()


def test_the_rows_are_those_of_asking_all_in_either_placement(
    make_config: Callable[..., Config], run_rounds: Callable[..., Any], server: Server, tmp_path: Path
):
    endpoint = {"base_url": server.url, "max_retries": 0}
    voting = {"endpoint": {**endpoint, "send_seed": True}, "votes": 3, "temperature": 0.7, "threshold": 0.6}
    shared = {"kind": "openai", "max_tokens": 4096}

    def tables(name: str, placement: str, after: list[str]) -> tuple[list[Row], list[Row], int]:
        config = make_config(
            placement=placement,
            segment={"kind": "llm", "judge": "dear"},
            judges={
                "dear": {**shared, "model": "dear", "endpoint": endpoint, "window_steps": 2, "after": after},
                "voting": {**shared, "model": "voting", **voting},
                "llm": {"kind": "fake", "role": "spare"},
                "prm": {"kind": "fake", "role": "spare"},
            },
        )
        num_before = len(server.requests)
        run = run_rounds(tmp_path / name, config, 1)
        state = read_manifest(run.directory)
        steps, weighted = (read_table(run.directory, state.receipts(1, table)) for table in ("steps", "weighted"))
        return steps, weighted, len(server.requests) - num_before

    steps, weighted, num_requests = tables("all", "separate", [])
    assert any(any(row["mined"]) for row in weighted)
    for placement in ("separate", "colocated"):
        some_steps, some_weighted, fewer = tables(placement, placement, ["voting"])
        assert (some_steps, some_weighted) == (steps, weighted)
        assert fewer < num_requests
