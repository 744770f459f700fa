from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from bcpg_cluster.config.run import Config
from bcpg_cluster.run.directory import open_run
from bcpg_cluster.store.reports import RoundReport
from tests.unit.exchange.trained_policy import add_version

REPORT = {"accuracy": 0.25, "stderr": 0.0125, "accuracy_greedy": 0.4, "num_problems": 40}


@pytest.fixture(scope="session")
def trained_run(tmp_path_factory: pytest.TempPathFactory, make_config: Callable[..., Config]) -> Path:
    """A run of the embedded policy with one trained version. Read it; copy it to change it."""
    directory = tmp_path_factory.mktemp("policy") / "run"
    config = make_config(policy={"kind": "vllm", "model": "embedded:chain/policy"}, name="tiny")
    with open_run(directory, config) as manifest:
        manifest.add_report(RoundReport.read({**REPORT, "round": 0, "accuracy": 0.2}))
        manifest.add_snapshot(add_version(directory, 1))
        manifest.add_report(RoundReport.read({**REPORT, "round": 1}))
    return directory


@pytest.fixture
def policy_run(trained_run: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return Path(shutil.copytree(trained_run, tmp_path / "run"))
