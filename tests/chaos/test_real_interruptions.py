"""Kill the real command where it hurts (in mid-training, between snapshot and push) and run it again."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file

from bcpg_cluster.config.embedded import resolve_asset
from bcpg_cluster.stages.push.snapshot import read_parameters
from bcpg_cluster.store.manifest import ManifestState, read_manifest
from tests.e2e.conftest import iterate_command, real_environment

pytestmark = pytest.mark.engine


def assert_only_linear_layers_changed(snapshot: Path) -> None:
    """The snapshot is a whole model: the base, with the adapters merged in."""
    before = load_file(Path(resolve_asset("embedded:policy")) / "model.safetensors")
    after = dict(read_parameters(str(snapshot)))
    assert after.keys() == before.keys()
    changed = {name for name, tensor in before.items() if not after[name].equal(tensor.float())}
    assert changed == {name for name in before if name.endswith("_proj.weight")} and len(changed) == 21


def kill_when(command: list[str], run_dir: Path, reached: Callable[[ManifestState], bool]) -> None:
    """Start the command and SIGKILL it (the driver alone; Ray's processes have to notice) once ``reached`` holds."""
    log = run_dir.with_suffix(".log").open("a")
    process = subprocess.Popen(command, env=real_environment(), stdout=log, stderr=log, start_new_session=True)
    deadline = time.monotonic() + 600
    try:
        while not reached(read_manifest(run_dir)):
            assert process.poll() is None, run_dir.with_suffix(".log").read_text()[-3000:]
            assert time.monotonic() < deadline, "the state to kill in was never reached"
            time.sleep(0.005)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
        log.close()


def test_killed_in_training_and_before_the_push(tmp_path: Path) -> None:
    """With adapters; whole weights are trained by the real rounds of tests/e2e."""
    run_dir = tmp_path / "run"
    command = iterate_command(
        run_dir, 1, "train.lora={rank: 16}", "train.learning_rate=3.0e-3", "train.min_learning_rate=3.0e-4"
    )

    def in_training(state: ManifestState) -> bool:
        return (1, "reference") in state.sealed and any((run_dir / "rounds/0001/checkpoint").glob("*"))

    kill_when(command, run_dir, in_training)
    sealed = read_manifest(run_dir)
    assert 1 not in sealed.snapshots, "it should have been killed before the snapshot"
    files = {path: path.stat().st_mtime_ns for path in run_dir.rglob("*.parquet")}

    kill_when(command, run_dir, lambda state: 1 in state.snapshots)
    between = read_manifest(run_dir)
    assert 1 not in between.reports

    done = subprocess.run(command, env=real_environment(), capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    state = read_manifest(run_dir)
    assert set(state.reports) == {0, 1}
    assert state.pushes[1].canaries == "passed"
    assert state.snapshots[1] == between.snapshots[1]
    assert {path: path.stat().st_mtime_ns for path in files} == files, "sealed shards were written again"
    assert state.receipts(1, "weighted") == sealed.receipts(1, "weighted")
    assert_only_linear_layers_changed(run_dir / state.snapshots[1].path)


def test_ctrl_c_stops_cleanly_and_says_how_to_go_on(tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    command = iterate_command(run_dir, 1)
    process = subprocess.Popen(
        command, env=real_environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    deadline = time.monotonic() + 600
    while (0, "eval_rollouts") not in read_manifest(run_dir).shards:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGINT)
    printed, _ = process.communicate(timeout=120)
    assert process.returncode == 130, printed[-3000:]
    assert "Run the same command again to resume" in printed
