"""The real command is killed where it hurts and stopped with Ctrl-C, and run again."""

from __future__ import annotations

import signal
import subprocess
from pathlib import Path

import pytest
from safetensors.torch import load_file

from bcpg_cluster.config.embedded import resolve_asset
from bcpg_cluster.stages.push.snapshot import read_parameters
from bcpg_cluster.store.manifest import read_manifest
from bcpg_cluster.store.shards import read_table
from tests.real_run import (
    TIMEOUT_S,
    RealRun,
    is_in_training,
    iterate_command,
    real_environment,
    shards_written,
    started,
)

pytestmark = pytest.mark.engine


def test_killed_in_training(real_run: RealRun) -> None:
    assert 1 not in real_run.when_killed.snapshots, "it should have been killed before the snapshot"
    state = read_manifest(real_run.directory)
    assert state.pushes[1].canaries == "passed"
    assert state.receipts(1, "weighted") == real_run.when_killed.receipts(1, "weighted")
    now = shards_written(real_run.directory)
    assert {path: now[path] for path in real_run.shards} == real_run.shards, "sealed shards were written again"


def test_ctrl_c_stops_cleanly_and_says_how_to_continue(real_run: RealRun) -> None:
    assert real_run.code == 130, real_run.printed[-3000:]
    assert "Run the same command again" in real_run.printed
    assert "Traceback" not in real_run.printed
    assert set(read_manifest(real_run.directory).reports) == {0, 1}


@pytest.mark.slow
def test_a_run_that_was_left_alone_ends_in_the_same(real_run: RealRun, tmp_path: Path) -> None:
    """Every table of the killed run, and its weights, bit for bit."""
    alone = tmp_path / "run"
    done = subprocess.run(
        iterate_command(alone, 1), env=real_environment(), capture_output=True, text=True, timeout=TIMEOUT_S
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "after round 1:" in done.stdout
    state, calm = read_manifest(real_run.directory), read_manifest(alone)
    for table in ("rollouts", "outcomes", "steps", "verdicts.truth", "weighted", "eval_rollouts"):
        assert read_table(real_run.directory, state.receipts(1, table)) == read_table(alone, calm.receipts(1, table))
    assert state.snapshots[1].digests == calm.snapshots[1].digests
    for key in ("accuracy", "accuracy_greedy", "samples", "mined_share", "judges"):
        assert getattr(state.reports[1], key) == getattr(calm.reports[1], key), key


def assert_only_linear_layers_changed(snapshot: Path) -> None:
    """The snapshot is a whole model: the base, with the adapters merged in."""
    before = load_file(Path(resolve_asset("embedded:sums/policy")) / "model.safetensors")
    after = dict(read_parameters(str(snapshot)))
    assert after.keys() == before.keys()
    changed = {name for name, tensor in before.items() if not after[name].equal(tensor.float())}
    assert changed == {name for name in before if name.endswith("_proj.weight")} and len(changed) == 28


@pytest.mark.slow
def test_killed_in_training_and_before_the_push(tmp_path: Path) -> None:
    """With adapters; whole weights are trained by the run that the tests share."""
    run_dir = tmp_path / "run"
    command = iterate_command(
        run_dir, 1, "train.lora={rank: 16}", "train.learning_rate=3.0e-3", "train.min_learning_rate=3.0e-4"
    )
    with started(command, run_dir, tmp_path / "first.txt") as run:
        run.wait_for(is_in_training(run_dir))
    sealed, shards = read_manifest(run_dir), shards_written(run_dir)
    assert 1 not in sealed.snapshots, "it should have been killed before the snapshot"

    with started(command, run_dir, tmp_path / "second.txt") as run:
        run.wait_for(lambda state: 1 in state.snapshots)
    between = read_manifest(run_dir)
    assert 1 not in between.reports

    done = subprocess.run(command, env=real_environment(), capture_output=True, text=True, timeout=TIMEOUT_S)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    state = read_manifest(run_dir)
    assert set(state.reports) == {0, 1}
    assert state.pushes[1].canaries == "passed"
    assert state.snapshots[1] == between.snapshots[1]
    now = shards_written(run_dir)
    assert {path: now[path] for path in shards} == shards, "sealed shards were written again"
    assert state.receipts(1, "weighted") == sealed.receipts(1, "weighted")
    assert_only_linear_layers_changed(run_dir / state.snapshots[1].path)


@pytest.mark.slow
def test_ctrl_c_while_the_first_engines_work(tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    with started(iterate_command(run_dir, 1), run_dir, tmp_path / "printed.txt") as run:
        run.wait_for(lambda state: (0, "eval_rollouts") in state.shards)
        run.process.send_signal(signal.SIGINT)
        assert run.process.wait(120) == 130, run.printed()[-3000:]
    assert "Run the same command again" in run.printed()
