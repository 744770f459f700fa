"""One small real run a session: the laptop config, cut down, on the real engines and a local Ray.

It has a hard life, so that two starts of all engines show what else would take five: it is killed in training, goes on from
there to the end of its round, and is stopped with Ctrl-C in the next.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from bcpg_cluster.store.manifest import ManifestState, read_manifest
from tests.scrape import Series, listening

# Everything of configs/laptop.yaml stays; only the sizes shrink.
SMALL = [
    "prompts.per_round=24",
    "generate.group_size=8",
    "generate.prompts_per_shard=8",
    "train.epochs=1",
    "train.batch_sequences=8",
    "train.checkpoint_every_steps=1",
    "evaluate.num_prompts=24",
    "evaluate.num_samples=2",
    "evaluate.prompts_per_shard=12",
]
TIMEOUT_S = 600


def iterate_command(run_dir: Path, rounds: int, *more: str) -> list[str]:
    """The command line of a small real run."""
    settings = [argument for setting in [*SMALL, *more] for argument in ("--set", setting)]
    command = [str(Path(sys.executable).parent / "bcpg-cluster"), "iterate", "--rounds", str(rounds)]
    return [*command, "--config", "laptop", "--address", "local", "--run-dir", str(run_dir), *settings]


def real_environment() -> dict[str, str]:
    """The venv's bin on PATH, as `make iterate` has it (DeepSpeed looks for ninja there)."""
    return {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}


@dataclass
class UnderWay:
    """The command in a process of its own, and the metrics that Ray's agent exports while it goes on."""

    run_dir: Path
    process: subprocess.Popen[bytes]
    log: Path
    series: Series = field(default_factory=Series)

    def wait_for(self, reached: Callable[[ManifestState], bool]) -> ManifestState:
        """The first state of the run that is so."""
        deadline = time.monotonic() + TIMEOUT_S
        while not reached(state := read_manifest(self.run_dir)):
            assert self.process.poll() is None, self.printed()
            assert time.monotonic() < deadline, f"the state was never reached: {self.printed()}"
            time.sleep(0.005)
        return state

    def kill(self) -> None:
        """The driver alone; Ray's processes have to notice."""
        self.process.kill()
        self.process.wait()

    def printed(self) -> str:
        return self.log.read_text()


@contextmanager
def started(command: list[str], run_dir: Path, log: Path) -> Iterator[UnderWay]:
    """Start the command. Its Ray has a folder of its own (with a short path, for its sockets) and hands metrics on every second."""
    ray_folder = Path(tempfile.mkdtemp(prefix="bcpg-ray-", dir="/tmp"))
    environment = real_environment() | {"RAY_TMPDIR": str(ray_folder), "RAY_metrics_report_interval_ms": "1000"}
    with log.open("wb") as output:
        process = subprocess.Popen(command, env=environment, stdout=output, stderr=output, start_new_session=True)
    run = UnderWay(run_dir, process, log)
    with ExitStack() as at_the_end:  # backwards: the kill comes first, at once
        at_the_end.callback(shutil.rmtree, ray_folder, ignore_errors=True)
        at_the_end.enter_context(listening(ray_folder / "ray" / "session_latest", run.series))
        at_the_end.callback(run.kill)
        yield run


def is_in_training(run_dir: Path) -> Callable[[ManifestState], bool]:
    """Whether round 1's training has written a step checkpoint."""
    return lambda state: (1, "reference") in state.sealed and any((run_dir / "rounds/0001/checkpoint").glob("*"))


def has_last_weights(series: Series, state: ManifestState) -> bool:
    """Whether the export has the round's last weighed shard: its figures are those of the report."""
    return series.get("ray_bcpg_shards_total", stage="weigh") == len(state.receipts(1, "weighted"))


def shards_written(run_dir: Path) -> dict[Path, int]:
    """Every shard of the run and when it was written, in ns."""
    return {path: path.stat().st_mtime_ns for path in run_dir.rglob("*.parquet")}


@dataclass(frozen=True)
class RealRun:
    """The run, after its hard life: round 1 is finished, round 2 begun.

    Attributes:
        when_killed: the manifest at that time; ``shards`` are those that were there.
        killed: the exported metrics of the process that made the data and was killed.
        trained: those of the process that trained to the end, right after its push: in `series` round 2 may train already.
        series: those of that process in the end; it pushed and evaluated.
        printed: what that process printed, and ``code`` how it ended.
    """

    directory: Path
    when_killed: ManifestState
    shards: Mapping[Path, int]
    killed: Series
    trained: Series
    series: Series
    printed: str
    code: int


@pytest.fixture(scope="session")
def real_run(tmp_path_factory: pytest.TempPathFactory) -> RealRun:
    """Killed in training, gone on with, stopped with Ctrl-C in the round after."""
    folder = tmp_path_factory.mktemp("real")
    run_dir = folder / "run"
    command = iterate_command(run_dir, 20)
    with started(command, run_dir, folder / "killed.txt") as killed:
        in_training = is_in_training(run_dir)
        killed.wait_for(lambda state: in_training(state) and has_last_weights(killed.series, state))
    when_killed, shards = read_manifest(run_dir), shards_written(run_dir)
    with started(command, run_dir, folder / "printed.txt") as run:
        # Here and above: metrics are exported a moment after they are set. Round 2 has its data to make before it sets these again.
        run.wait_for(lambda state: 1 in state.pushes and "ray_bcpg_push_seconds" in run.series.names())
        trained = run.series.copy()
        run.wait_for(lambda state: 1 in state.reports)
        run.process.send_signal(signal.SIGINT)
        code = run.process.wait(TIMEOUT_S)
    return RealRun(run_dir, when_killed, shards, killed.series, trained, run.series, run.printed(), code)
