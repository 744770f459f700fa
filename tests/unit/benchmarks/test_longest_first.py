"""benchmarks/longest_first.py: its engines by hand, and that it runs, small."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parents[3] / "benchmarks"
ALONE, TWO = 0.020 * (1 + 1 / 256), 0.020 * (1 + 2 / 256)  # seconds of a step, by the requests in the batch


@pytest.fixture
def simulated(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import simulated_engines

    return simulated_engines


@pytest.mark.parametrize(
    ("slots", "jobs", "took"),
    [
        (2, [[10, 30]], [10 * TWO + 20 * ALONE]),
        (1, [[10, 30]], [40 * ALONE]),
        (2, [[10, 30], [5]], [15 * TWO + 15 * ALONE, 15 * TWO]),  # the second waits for a place
    ],
)
def test_an_engines_requests_share_its_batch(simulated: Any, slots: int, jobs: list[list[int]], took: list[float]):
    time_ = simulated.SimulatedTime()
    engine, ended = simulated.SimulatedEngine(time_, slots), dict[int, float]()
    for number, lengths in enumerate(jobs):
        engine.submit(lengths, lambda seconds, number=number: (ended.update({number: seconds}), time_.set()))
    while len(ended) < len(jobs):
        time_.clear()
        time_.wait(1.0)
    assert [ended[number] for number in range(len(jobs))] == pytest.approx(took)


def test_it_runs_small(tmp_path: Path):
    options = ["--members", "2", "--shards", "10", "--lengths", "heavy", "--arm", "known", "--repeats", "1"]
    command = [sys.executable, str(BENCHMARKS / "longest_first.py"), *options, "--json", str(tmp_path / "found.json")]
    subprocess.run(command, check=True, capture_output=True)
    found = json.loads((tmp_path / "found.json").read_text())["results"]
    assert found["heavy, 10 shards, known: D / today's"]["median"] < 1  # known lengths, and an engine that is kept full
