"""Runs made by commit 0ac596b, before the house was turned by stage, open, report and resume.

``tests/data/run-by-0ac596b-*.tar.gz`` are run directories that commit made on fakes: one finished after two rounds, one killed in
round 2. ``status-by-0ac596b.json`` is what its ``status --json`` said of the first, and of the second once it had resumed it.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bcpg_cluster.run.directory import check_run_directory, load_run_config
from bcpg_cluster.store.manifest import read_manifest
from tests import archives
from tests.chaos.damage import KINDS, damage

DATA = Path(__file__).parents[1] / "data"
BY_THE_CLOCK = {"seconds", "tokens_per_s", "evaluation_tokens_per_s", "bound", "busy"}
ADDED_SINCE = {
    "mined_gradient_share",
    "uncertain_right_share",
    "right_steps",
    "hidden",
    "segment",
}  # in reports that this program makes


@pytest.fixture(scope="module")
def said() -> dict[str, Any]:
    return json.loads((DATA / "status-by-0ac596b.json").read_text())


def unpack(name: str, folder: Path) -> Path:
    archives.unpack(DATA / f"run-by-0ac596b-{name}.tar.gz", folder)
    return folder / name


def without_times(rounds: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rounds as ``status --json`` has them, without what depends on the clock."""
    found = []
    for report in rounds:
        kept = {key: value for key, value in report.items() if key not in BY_THE_CLOCK | ADDED_SINCE}
        if "generate" in kept:
            kept["generate"] = {key: n for key, n in kept["generate"].items() if key != "stop.prompt_too_long"}
        if "train" in kept:
            kept["train"] = {key: value for key, value in kept["train"].items() if not key.endswith("_s")}
        if "push" in kept:
            kept["push"] = {"method": kept["push"]["method"], "canaries": kept["push"]["canaries"]}
        found.append(kept)
    return found


def test_a_finished_run_reports_what_it_did(tmp_path: Path, bcpg: Callable[..., Any], said: dict[str, Any]):
    run_dir = unpack("finished", tmp_path)
    facts = json.loads(bcpg("status", "--run-dir", run_dir, "--json").out)
    assert facts["rounds"] == said["finished"]["rounds"]
    assert facts["policy_version"] == 2
    for command in ("status", "inspect", "disagreements"):
        ended = bcpg(command, "--run-dir", run_dir)
        assert ended.code == 0, (command, ended.err)


def test_a_finished_run_is_the_run_of_its_configuration(tmp_path: Path, bcpg: Callable[..., Any]):
    run_dir = unpack("finished", tmp_path)
    check_run_directory(run_dir, load_run_config(run_dir))
    again = bcpg("iterate", "--config", run_dir / "config.yaml", "--run-dir", run_dir, "--rounds", 2, "--inline")
    assert again.code == 0, again.err
    assert "all 2 rounds are done already" in again.out
    further = bcpg("iterate", "--config", run_dir / "config.yaml", "--run-dir", run_dir, "--rounds", 3, "--inline")
    assert further.code == 0, further.err
    reports = read_manifest(run_dir).reports
    assert set(reports) == {0, 1, 2, 3}
    assert [reports[r].bound is not None for r in reports] == [
        False,
        False,
        False,
        True,
    ]  # of the one this program made


def test_an_interrupted_run_resumes_to_the_same_end(tmp_path: Path, bcpg: Callable[..., Any], said: dict[str, Any]):
    run_dir = unpack("interrupted", tmp_path)
    open_tables = {
        row["table"] for row in json.loads(bcpg("status", "--run-dir", run_dir, "--json").out)["in_progress"]
    }
    assert {"rollouts", "steps"} <= open_tables
    ended = bcpg("iterate", "--config", run_dir / "config.yaml", "--run-dir", run_dir, "--rounds", 2, "--inline")
    assert ended.code == 0, ended.err
    facts = json.loads(bcpg("status", "--run-dir", run_dir, "--json").out)
    assert without_times(facts["rounds"]) == without_times(said["resumed"]["rounds"])
    assert facts["rounds"][2].keys() >= ADDED_SINCE
    assert not facts["rounds"][2].keys() & {"bound", "busy"}  # half of it was done before
    assert not any(report.keys() & ADDED_SINCE for report in facts["rounds"][:2])


def test_an_interrupted_run_with_damaged_shards_resumes_to_the_same_end(
    tmp_path: Path, bcpg: Callable[..., Any], said: dict[str, Any]
):
    """Its manifest has no checksums and seals that only count; the shards' own checksums are enough."""
    run_dir = unpack("interrupted", tmp_path)
    assert bcpg("verify", "--run-dir", run_dir).code == 0
    state = read_manifest(run_dir)
    damaged = [state.receipts(2, table)[0] for table in ("prompts", "rollouts", "steps")]
    for receipt, kind in zip(damaged, KINDS, strict=True):
        damage(run_dir / receipt.path, kind)
    found = json.loads(bcpg("verify", "--run-dir", run_dir, "--json").out)
    assert {fault["path"] for fault in found["faults"]} == {receipt.path for receipt in damaged}
    ended = bcpg("iterate", "--config", run_dir / "config.yaml", "--run-dir", run_dir, "--rounds", 2, "--inline")
    assert ended.code == 0, ended.err
    facts = json.loads(bcpg("status", "--run-dir", run_dir, "--json").out)
    assert facts["rounds"][2].pop("faults")["counts"].keys() == {"remade"}
    assert without_times(facts["rounds"]) == without_times(said["resumed"]["rounds"])
    assert bcpg("verify", "--run-dir", run_dir).code == 0
