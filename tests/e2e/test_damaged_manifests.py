"""Journals that lost a line: nothing is trained on what is left, and a run that is cut back ends as the undisturbed one."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bcpg_cluster.store.journals.mending import cut_manifest
from bcpg_cluster.store.layout import LOCK, MANIFEST
from bcpg_cluster.store.manifest import read_manifest
from bcpg_cluster.store.shards import read_table
from tests.archives import unpack
from tests.reports import what_counts

DATA = Path(__file__).parents[1] / "data"
Bcpg = Callable[..., Any]
Tree = Callable[..., dict[str, str]]


@pytest.fixture
def run_dir(finished_run: Any, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished_run.directory, tmp_path / "run"))


def lines_of(run_dir: Path) -> list[bytes]:
    return (run_dir / MANIFEST).read_bytes().splitlines(keepends=True)


def lose(run_dir: Path, sought: bytes) -> int:
    """Take the first line away that has this in it; its number, which the line after it has then."""
    lines = lines_of(run_dir)
    place = next(place for place, line in enumerate(lines) if sought in line)
    lines.pop(place)
    (run_dir / MANIFEST).write_bytes(b"".join(lines))
    return place + 1


def test_a_weighted_shard_lost_under_its_seal_is_not_trained_without(
    bcpg: Bcpg, config_file: Path, run_dir: Path, tree_digest: Tree
):
    number = lose(run_dir, b'"event": "shard", "table": "weighted", "round": 3')
    before = tree_digest(run_dir, ignore=(LOCK,))
    for command in (
        ("iterate", "-c", config_file, "--inline", "-n", 4, "--run-dir", run_dir),
        ("stage", "train", "--round", 3, "--inline", "--discard-later", "--run-dir", run_dir),
        ("status", "--run-dir", run_dir),
        ("inspect", "--run-dir", run_dir),
    ):
        ended = bcpg(*command)
        assert ended.code == 2, (command, ended.err)
        assert f"line {number}: " in ended.err and "fails its checksum" in ended.err, ended.err
        assert tree_digest(run_dir, ignore=(LOCK,)) == before


def test_the_same_in_a_run_made_before_lines_had_checksums(bcpg: Bcpg, tmp_path: Path, tree_digest: Tree):
    unpack(DATA / "run-by-0ac596b-finished.tar.gz", tmp_path)
    run_dir = tmp_path / "finished"
    lose(run_dir, b'"event": "shard", "table": "weighted", "round": 2')
    before = tree_digest(run_dir, ignore=(LOCK,))
    ended = bcpg("iterate", "-c", run_dir / "config.yaml", "--inline", "-n", 3, "--run-dir", run_dir)
    assert ended.code == 2
    assert "the seal of round 2, table 'weighted', says " in ended.err
    assert "--mend" in ended.err
    assert tree_digest(run_dir, ignore=(LOCK,)) == before


@pytest.mark.parametrize(
    "sought",
    [
        b'"event": "shard", "table": "weighted", "round": 3',
        b'"event": "sealed", "round": 3, "table": "rollouts"',
        b'"event": "snapshot", "version": 3',
        b'"event": "push", "version": 3',
        b'"event": "shard", "table": "eval_rollouts", "round": 3',
        b'"event": "shard", "table": "prompts", "round": 1',
    ],
)
def test_a_run_that_is_cut_back_ends_as_the_undisturbed_one(
    finished_run: Any, run_rounds: Callable[..., Any], run_dir: Path, sought: bytes
):
    lose(run_dir, sought)
    damaged = (run_dir / MANIFEST).read_bytes()
    cut = cut_manifest(run_dir)
    assert cut is not None
    assert cut.num_cut > 0
    assert (run_dir / f"{MANIFEST}.damaged-1").read_bytes() == damaged
    again = run_rounds(run_dir, finished_run.config, 3)
    for round_, report in finished_run.reports.items():
        assert what_counts(again.reports[round_]) == what_counts(report)
    assert again.reports.keys() == finished_run.reports.keys()
    state, undisturbed = read_manifest(run_dir), read_manifest(finished_run.directory)
    assert state.sealed.keys() == undisturbed.sealed.keys()
    for round_, name in state.sealed:
        found = read_table(run_dir, state.receipts(round_, name))
        assert found == read_table(finished_run.directory, undisturbed.receipts(round_, name)), (round_, name)
    assert {version: record.digests for version, record in state.snapshots.items()} == {
        version: record.digests for version, record in undisturbed.snapshots.items()
    }


@pytest.mark.parametrize("name", [LOCK, MANIFEST])
def test_a_directory_in_the_place_of_a_file_is_said(
    bcpg: Bcpg, config_file: Path, run_dir: Path, tree_digest: Tree, name: str
):
    (run_dir / name).unlink()
    (run_dir / name).mkdir()
    before = tree_digest(run_dir)
    for command in (
        ("iterate", "-c", config_file, "--inline", "-n", 4, "--run-dir", run_dir),
        ("iterate", "-c", config_file, "--inline", "-n", 4, "--take-over", "--run-dir", run_dir),
        ("stage", "train", "--round", 3, "--inline", "--discard-later", "--run-dir", run_dir),
        ("status", "--run-dir", run_dir),
    ):
        ended = bcpg(*command)
        assert ended.code == 2, (command, ended.err)
        assert "rule:" in ended.err
        assert "remedy:" in ended.err
        assert tree_digest(run_dir) == before


def test_a_run_of_a_silent_process_is_taken_over_by_the_flag_alone(
    bcpg: Bcpg, config_file: Path, run_dir: Path, tree_digest: Tree
):
    sign = {"pid": 7, "host": "elsewhere", "machine": "another/pid:[1]", "started": "1", "time": 1.0, "released": False}
    (run_dir / LOCK).write_text(json.dumps(sign))
    before = tree_digest(run_dir)
    for command in (
        ("iterate", "-c", config_file, "--inline", "-n", 4, "--run-dir", run_dir),
        ("stage", "train", "--round", 3, "--inline", "--discard-later", "--run-dir", run_dir),
    ):
        ended = bcpg(*command)
        assert ended.code == 2, (command, ended.err)
        assert "is held by process 7 on elsewhere" in ended.err
        assert "--take-over" in ended.err
        assert tree_digest(run_dir) == before
    assert bcpg("status", "--run-dir", run_dir).code == 0
    ended = bcpg("stage", "evaluate", "--round", 3, "--inline", "--take-over", "--run-dir", run_dir)
    assert ended.code == 0, ended.err
    (run_dir / LOCK).write_text(json.dumps(sign))
    ended = bcpg("iterate", "-c", config_file, "--inline", "-n", 4, "--take-over", "--run-dir", run_dir)
    assert ended.code == 0, ended.err
    assert set(read_manifest(run_dir).reports) == {0, 1, 2, 3, 4}
