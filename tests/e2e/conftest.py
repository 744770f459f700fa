"""One small real run a session: the laptop config, cut down, on the real engines and a local Ray."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

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


@pytest.fixture(scope="session")
def real_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A finished run of one round, and what it printed."""
    run_dir = tmp_path_factory.mktemp("real") / "run"
    done = subprocess.run(
        iterate_command(run_dir, 1), env=real_environment(), capture_output=True, text=True, timeout=900
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return run_dir, done.stdout
