"""One small real run a session: the laptop config, cut down, on the real engines and a local Ray."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.scrape import Series, scrape

# Everything of configs/laptop.yaml stays; only the sizes shrink.
SMALL = [
    "prompts.per_round=24",
    "generate.group_size=8",
    "generate.prompts_per_shard=8",
    "train.batch_sequences=16",
    "train.checkpoint_every_steps=1",
    "evaluate.num_prompts=24",
    "evaluate.num_samples=2",
    "evaluate.prompts_per_shard=12",
]


def iterate_command(run_dir: Path, rounds: int, *more: str) -> list[str]:
    """The command line of a small real run."""
    settings = [argument for setting in [*SMALL, *more] for argument in ("--set", setting)]
    command = [str(Path(sys.executable).parent / "bcpg-cluster"), "iterate", "--rounds", str(rounds)]
    return [*command, "--config", "laptop", "--address", "local", "--run-dir", str(run_dir), *settings]


def real_environment() -> dict[str, str]:
    """The venv's bin on PATH, as `make iterate` has it (DeepSpeed looks for ninja there)."""
    return {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}


@dataclass(frozen=True)
class RealRun:
    """A finished run: where, what it printed, and the metrics that Ray's agent exported while it went on."""

    directory: Path
    printed: str
    series: Series


@pytest.fixture(scope="session")
def watched_run(tmp_path_factory: pytest.TempPathFactory) -> RealRun:
    """One round. Its Ray has a folder of its own (with a short path, for its sockets) and hands metrics on every second."""
    folder = tmp_path_factory.mktemp("real")
    ray_folder = Path(tempfile.mkdtemp(prefix="bcpg-ray-", dir="/tmp"))
    environment = real_environment() | {"RAY_TMPDIR": str(ray_folder), "RAY_metrics_report_interval_ms": "1000"}
    series = Series()
    try:
        with (folder / "printed.txt").open("w") as output:
            run = subprocess.Popen(
                iterate_command(folder / "run", 1), env=environment, stdout=output, stderr=subprocess.STDOUT
            )
            deadline = time.monotonic() + 900
            while run.poll() is None and time.monotonic() < deadline:
                scrape(ray_folder / "ray" / "session_latest", series)
                with suppress(subprocess.TimeoutExpired):
                    run.wait(0.3)
            if run.poll() is None:
                run.terminate()
                run.wait(60)
        printed = (folder / "printed.txt").read_text()
        assert run.returncode == 0, printed[-6000:]
        return RealRun(folder / "run", printed, series)
    finally:
        shutil.rmtree(ray_folder, ignore_errors=True)


@pytest.fixture(scope="session")
def real_run(watched_run: RealRun) -> tuple[Path, str]:
    """The same run: its directory, and what it printed."""
    return watched_run.directory, watched_run.printed
