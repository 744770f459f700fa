"""What grows with a round and what does not: memory by tracemalloc, work by counted calls, on rounds that a benchmark generates."""

from __future__ import annotations

import contextlib
import io
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from bcpg_cluster.exchange.export_steps import export_steps
from bcpg_cluster.exchange.export_weights import WeightSettings, export_weights
from bcpg_cluster.stages.job import StageJob, StageWorker
from bcpg_cluster.stages.weigh.stage import weigh
from bcpg_cluster.store.shards import read_shard
from bcpg_cluster_cli.exchange.export import judge_set
from bcpg_cluster_cli.judging.calibrate import run_calibrate
from bcpg_cluster_cli.judging.disagreements import run_disagreements
from bcpg_cluster_cli.watching.inspect import run_inspect
from benchmarks.generated_round import RoundSize, config_of, job_of, make_run, stage_worker, state_of

BENCHMARKS = Path(__file__).parents[3] / "benchmarks"
SMALL, LARGE = RoundSize(shards=3, prompts=2), RoundSize(shards=12, prompts=2)
SLACK = 1.3  # of the peak: what is kept of each shard, and of the manifest's lines


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[RoundSize, Path]:
    root = tmp_path_factory.mktemp("generated")
    return {size: make_run(root / str(size.shards), size, 0) for size in (SMALL, LARGE)}


def peak(work: Callable[[], object]) -> int:
    """Bytes at the most, beyond those that are there."""
    with contextlib.redirect_stdout(io.StringIO()):
        tracemalloc.start()
        try:
            work()
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()


def weights_of(run: Path, size: RoundSize) -> None:
    settings = WeightSettings("generated", 1.0, judge_set(config_of(size)))
    export_weights(run, run.parent / f"weights-{size.shards}", "verl", settings)


def steps_of(run: Path, size: RoundSize) -> None:
    export_steps(run, run.parent / f"steps-{size.shards}", run_name="generated", judges=judge_set(config_of(size)))


READERS: dict[str, Callable[[Path, RoundSize], object]] = {
    "disagreements": lambda run, size: run_disagreements(run, 1, 3, None, as_json=False),
    "inspect": lambda run, size: run_inspect(run, 1, None, None, 3),
    "calibrate": lambda run, size: run_calibrate(run, "j1", measure="truth", as_json=True),
    "export steps": steps_of,
    "export weights": weights_of,
}


@pytest.mark.parametrize("name", READERS)
def test_a_reader_holds_one_shard_of_a_round(name: str, runs: dict[RoundSize, Path]):
    small, large = (peak(lambda size=size: READERS[name](runs[size], size)) for size in (SMALL, LARGE))
    assert large < SLACK * small


@pytest.mark.parametrize("stage", ["segment", "weigh"])
def test_a_stage_holds_one_shard_of_a_round(stage: str, runs: dict[RoundSize, Path]):
    def work_on(size: RoundSize, worker: StageWorker) -> None:
        state = state_of(runs[size])
        for shard in range(size.shards):
            worker.run(job_of(runs[size], state, size, stage, shard, attempt="again"))

    with stage_worker() as worker:
        small, large = (peak(lambda size=size: work_on(size, worker)) for size in (SMALL, LARGE))
    assert large < SLACK * small


def num_calls(work: Callable[[], object]) -> int:
    """Functions called, Python's and others."""
    number = 0

    def count(frame: FrameType, event: str, argument: Any) -> None:
        nonlocal number
        number += event in ("call", "c_call")

    sys.setprofile(count)
    try:
        work()
    finally:
        sys.setprofile(None)
    return number


def test_the_work_of_weigh_grows_with_the_judges_and_not_with_their_pairs(tmp_path: Path):
    """Twice as many judges twice: each doubling adds twice what the one before added, and no more."""
    calls = {}
    for judges in (4, 8, 16):
        size = RoundSize(judges=judges, tokens=512, prompts=1)
        run = make_run(tmp_path / str(judges), size, 0)
        job: StageJob = job_of(run, state_of(run), size, "weigh", 0)
        tables = {table: read_shard(run, receipt) for table, receipt in job.inputs.items()}
        calls[judges] = num_calls(lambda tables=tables, job=job: weigh(tables, job))
    assert calls[16] - calls[8] < 2.2 * (calls[8] - calls[4])


def test_the_benchmark_runs_small(tmp_path: Path):
    ended = subprocess.run(
        [sys.executable, str(BENCHMARKS / "growth.py"), "--small", "--axis", "judges", "--json", str(tmp_path / "out")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    assert "| judges: 2 to 4 judges | weigh |" in ended.stdout
    assert (tmp_path / "out").read_text().count("CPU exponent") == 6
