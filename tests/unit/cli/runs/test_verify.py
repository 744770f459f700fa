"""``bcpg-cluster verify``: what it prints, and its exit codes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bcpg_cluster.store.manifest import Manifest, read_manifest
from tests.chaos.damage import damage

Bcpg = Callable[..., Any]


@pytest.fixture
def run_dir(finished_run: Any, tmp_path: Path) -> Path:
    shutil.copytree(finished_run.directory, tmp_path / "run")
    return tmp_path / "run"


def test_a_run_that_is_whole(bcpg: Bcpg, run_dir: Path):
    ended = bcpg("verify", "--run-dir", run_dir)
    assert ended.code == 0 and "all is what was written" in ended.out


def test_damage_is_named_and_mended(bcpg: Bcpg, run_dir: Path):
    path = read_manifest(run_dir).receipts(2, "weighted")[1].path
    damage(run_dir / path, "flipped")
    ended = bcpg("verify", "--run-dir", run_dir)
    assert ended.code == 1
    assert "restored by --mend:" in ended.out and path in ended.out and "1 damaged" in ended.out
    found = json.loads(bcpg("verify", "--run-dir", run_dir, "--json").out)
    assert (found["exit_code"], found["faults"][0]["path"], found["faults"][0]["fate"]) == (1, path, "restored")
    mended = bcpg("verify", "--run-dir", run_dir, "--mend")
    assert mended.code == 0
    assert f"mended  {path}: made again, the same byte for byte" in mended.out
    assert "files that count for nothing, left where they are" in mended.out and f"{path}.damaged" in mended.out
    assert bcpg("verify", "--run-dir", run_dir).code == 0


def test_a_run_in_use(bcpg: Bcpg, run_dir: Path):
    with Manifest(run_dir):
        ended = bcpg("verify", "--run-dir", run_dir)
        assert ended.code == 0 and "read as it stands" in ended.out
        refused = bcpg("verify", "--run-dir", run_dir, "--mend")
        assert refused.code == 2 and "in use by process" in refused.err


def test_what_is_no_run(bcpg: Bcpg, tmp_path: Path):
    ended = bcpg("verify", "--run-dir", tmp_path)
    assert ended.code == 2 and "is not a run" in ended.err
    assert list(tmp_path.iterdir()) == []


def test_a_reader_names_the_file_and_the_remedy(bcpg: Bcpg, run_dir: Path, tmp_path: Path):
    path = read_manifest(run_dir).receipts(3, "rollouts")[0].path
    damage(run_dir / path, "truncated")
    ended = bcpg("export", "steps", "--run-dir", run_dir, "--out", tmp_path / "steps")
    assert ended.code != 0
    assert path in ended.err and f"bcpg-cluster verify --run-dir {run_dir}" in ended.err
    assert "run the same command again" not in ended.err  # it would end the same
