"""Whatever moment the command is killed at, running it again ends in the same results, and sealed work is never redone."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import yaml

from bcpg_cluster.records import Receipt
from bcpg_cluster.store.layout import MANIFEST
from bcpg_cluster.store.manifest import read_manifest
from bcpg_cluster.store.reports import RoundReport
from bcpg_cluster.store.shards import read_shard
from tests.reports import what_counts

COMMAND = str(Path(sys.executable).with_name("bcpg-cluster"))

# Imports once and forks for every run, so that a kill costs no start-up. Prints the child's pid, then how it ended.
NURSERY = """
import os, shlex, sys
import bcpg_cluster_cli.runs.compare, bcpg_cluster_cli.runs.iterate, matplotlib.figure, scipy.stats
from bcpg_cluster_cli import app
for line in sys.stdin:
    child = os.fork()
    if child == 0:
        sys.argv = ["bcpg-cluster", *shlex.split(line)]
        log = os.open(os.environ["NURSERY_LOG"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(log, 1), os.dup2(log, 2)
        app.main()
        sys.exit(0)
    print(child, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


class Nursery:
    """Starts runs that are about to be killed."""

    def __init__(self, log: Path) -> None:
        self.log = log
        self._process = subprocess.Popen(
            [sys.executable, "-c", NURSERY], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env={**os.environ, "NURSERY_LOG": str(log)},
        )  # fmt: skip

    def start(self, *arguments: object) -> int:
        assert self._process.stdin is not None
        self._process.stdin.write(" ".join(map(str, arguments)) + "\n")
        self._process.stdin.flush()
        return self._read()

    def ended(self) -> int:
        return self._read()

    def _read(self) -> int:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, "the nursery is gone"
        return int(line)

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(30)


@pytest.fixture(scope="module")
def nursery(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nursery]:
    made = Nursery(tmp_path_factory.mktemp("nursery") / "log.txt")
    yield made
    made.close()


def all_that_counts(reports: Mapping[int, dict[str, Any] | RoundReport]) -> dict[int, dict[str, Any]]:
    return {round_: what_counts(report) for round_, report in reports.items()}


def lines_of(run_dir: Path) -> int:
    path = run_dir / MANIFEST
    return path.read_bytes().count(b"\n") if path.exists() else 0


def wait_until(run_dir: Path, lines: int, is_over: Callable[[], bool], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while lines_of(run_dir) < lines and not is_over():
        assert time.monotonic() < deadline, f"no progress: {lines_of(run_dir)} of {lines} events"
        time.sleep(0.001)


def kill(pid: int) -> None:
    with suppress(ProcessLookupError):  # it may have come to its end by itself
        os.kill(pid, signal.SIGKILL)


def is_gone(pid: int) -> bool:
    stat = Path(f"/proc/{pid}/stat")
    try:
        return stat.read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def test_killed_at_many_moments(
    nursery: Nursery, tmp_path: Path, config_file: Path, finished_run: Any, capsys: pytest.CaptureFixture[str]
):
    rng = random.Random(20)
    run_dir = tmp_path / "run"
    arguments = ("iterate", "-c", config_file, "--inline", "--run-dir", run_dir, "--rounds", 3)
    accepted: dict[tuple[int, str, int], tuple[Receipt, int]] = {}
    snapshots: dict[int, Any] = {}
    kills = 0
    next_kill = 0  # the first kills come while the run is being made
    while True:
        pid = nursery.start(*arguments)
        wait_until(run_dir, next_kill, lambda pid=pid: is_gone(pid))
        time.sleep(rng.random() * 0.02)
        kill(pid)
        code = nursery.ended()
        if code == 0:
            break
        assert code == -signal.SIGKILL, nursery.log.read_text()[-3000:]
        kills += 1
        state = read_manifest(run_dir)  # valid at every moment
        now = {
            (round_, table, shard): receipt
            for (round_, table), shards in state.shards.items()
            for shard, receipt in shards.items()
        }
        for key, (receipt, modified) in accepted.items():  # what counted once counts still, untouched
            assert now[key] == receipt
            assert (run_dir / receipt.path).stat().st_mtime_ns == modified
        assert snapshots.items() <= state.snapshots.items()
        accepted = {key: (receipt, (run_dir / receipt.path).stat().st_mtime_ns) for key, receipt in now.items()}
        snapshots = dict(state.snapshots)
        next_kill = lines_of(run_dir) + rng.choice([1, 2, 4, 8, 12, 16])
        assert kills < 300
    assert kills >= 15
    state = read_manifest(run_dir)
    assert all_that_counts(state.reports) == all_that_counts(finished_run.reports)
    receipts = [receipt for shards in state.shards.values() for receipt in shards.values()]
    for receipt in receipts:
        read_shard(run_dir, receipt)  # every shard that counts is whole
    spare = len(list(run_dir.rglob("*.parquet"))) - len(receipts)
    assert spare <= 6 * kills  # only what was under way at a kill was done again
    kept = {state.snapshots[version].path for version in (2, 3)}
    assert {f"snapshots/{path.name}" for path in (run_dir / "snapshots").iterdir()} == kept  # and nothing torn stayed
    with capsys.disabled():
        print(f"\n  {kills} kills, {spare} shards written in vain, {len(receipts)} counted", end="")


def test_killed_after_random_times(nursery: Nursery, tmp_path: Path, config_file: Path, finished_run: Any):
    """Not at events of the journal but at any time, in several runs."""
    rng = random.Random(7)
    for number in range(3):
        run_dir = tmp_path / f"run{number}"
        arguments = ("iterate", "-c", config_file, "--inline", "--run-dir", run_dir, "--rounds", 1)
        for _ in range(4):
            pid = nursery.start(*arguments)
            time.sleep(rng.random() * 0.4)
            kill(pid)
            assert nursery.ended() in (0, -signal.SIGKILL)
        nursery.start(*arguments)
        assert nursery.ended() == 0, nursery.log.read_text()[-3000:]
        expected = {round_: finished_run.reports[round_] for round_ in (0, 1)}
        assert all_that_counts(read_manifest(run_dir).reports) == all_that_counts(expected)


def test_a_comparison_that_is_killed_goes_on(nursery: Nursery, tmp_path: Path, config_file: Path):
    """Killed anywhere, tuning included, it ends in the same numbers as one that was left alone."""
    common = ("compare", "-c", config_file, "--inline", "--methods", "bcpg_nsa,dpo", "--seeds", 1)
    common += ("--rounds", 2, "--validation-prompts", 6, "--learning-rates", "1e-4,1e-3")
    nursery.start(*common, "--run-dir", tmp_path / "calm")
    assert nursery.ended() == 0, nursery.log.read_text()[-3000:]
    rng = random.Random(11)
    for _ in range(5):
        pid = nursery.start(*common, "--run-dir", tmp_path / "killed")
        time.sleep(rng.random() * 1.2)
        kill(pid)
        assert nursery.ended() in (0, -signal.SIGKILL), nursery.log.read_text()[-3000:]
    nursery.start(*common, "--run-dir", tmp_path / "killed")
    assert nursery.ended() == 0, nursery.log.read_text()[-3000:]
    for name in ("comparison.json", "comparison.md", "results.csv"):
        assert (tmp_path / "killed" / name).read_text() == (tmp_path / "calm" / name).read_text()


@pytest.fixture
def long_config(tmp_path: Path, fakes_content: Callable[[], dict[str, Any]]) -> Path:
    """More rounds than anybody waits for."""
    path = tmp_path / "long.yaml"
    path.write_text(yaml.safe_dump(fakes_content()))
    return path


def start_real(*arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [COMMAND, *map(str, arguments)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "COLUMNS": "200"},
    )  # fmt: skip


def test_ctrl_c_and_two_at_once(tmp_path: Path, long_config: Path):
    run_dir = tmp_path / "run"
    arguments = ("iterate", "-c", long_config, "--inline", "--run-dir", run_dir)
    first = start_real(*arguments, "--rounds", 500)
    try:
        wait_until(run_dir, 12, lambda: first.poll() is not None)
        second = start_real(*arguments, "--rounds", 500)
        _, complaint = second.communicate(timeout=60)
        assert second.returncode == 2
        assert f"is in use by process {first.pid}" in complaint
        assert "another --run-dir" in complaint
        assert first.poll() is None  # the first one did not mind
        first.send_signal(signal.SIGINT)
        shown, told = first.communicate(timeout=60)
    finally:
        first.kill()
    assert first.returncode == 130, told
    assert "stopping: finishing what is under way" in shown
    assert "Run the same command again to resume." in told
    assert "Traceback" not in told
    done = max(read_manifest(run_dir).reports, default=0)
    again = start_real(*arguments, "--rounds", done + 1)
    _, told = again.communicate(timeout=100)
    assert again.returncode == 0, told
    assert max(read_manifest(run_dir).reports) == done + 1
