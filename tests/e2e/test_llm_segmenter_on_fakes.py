"""A whole round whose responses are cut by the model of a judge behind an endpoint, in that judge's pool."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bcpg_cluster.config.run import Config
from bcpg_cluster.store.manifest import read_manifest
from bcpg_cluster.store.rows import rollouts_from, steps_from
from bcpg_cluster.store.shards import read_table
from tests.judge_server import Server, completion, good, sends


def play(request: dict[str, Any]) -> tuple[int, dict[str, str], bytes]:
    """Says that every second line begins a step; what it says of the longest responses cannot be read."""
    asked = re.search(r"Which of the lines (\d+) to (\d+) begin", request["messages"][1]["content"])
    if asked is None:
        return good(request)
    first, last = int(asked[1]), int(asked[2])
    text = json.dumps({"starts": list(range(first, last + 1, 2))}) if last < 5 else "all of them"
    return sends(completion(text))(request)


@pytest.fixture
def server() -> Iterator[Server]:
    one = Server()
    one.plays = [play] * 10_000
    yield one
    one.close()


def test_a_round(make_config: Callable[..., Config], run_rounds: Callable[..., Any], server: Server, tmp_path: Path):
    endpoint = {"base_url": server.url, "max_retries": 0}
    config = make_config(
        judges={"api": {"kind": "openai", "model": "m", "role": "spare", "endpoint": endpoint, "max_tokens": 4096}},
        segment={"kind": "llm", "judge": "api"},
    )
    run = run_rounds(tmp_path / "run", config, 1)
    state = read_manifest(run.directory)
    rollouts = {one.id: one for one in rollouts_from(read_table(run.directory, state.receipts(1, "rollouts")))}
    steps = steps_from(read_table(run.directory, state.receipts(1, "steps")))
    by_model = 0
    for id_, of_sample in steps.items():
        lines = rollouts[id_].text.splitlines(keepends=True)
        assert "".join(step.text for step in of_sample) == rollouts[id_].text
        if 2 <= len(lines) < 5:
            by_model += 1
            assert [step.text for step in of_sample] == ["".join(lines[k : k + 2]) for k in range(0, len(lines), 2)]
    counts = run.reports[1]["segment"]
    assert by_model and counts["llm.calls"] >= by_model
    assert counts["llm.fallback.unreadable"] == sum(len(rollouts[id_].text.splitlines()) >= 5 for id_ in steps) > 0
    assert counts["llm.calls.repair"] == counts["llm.fallback.unreadable"]
