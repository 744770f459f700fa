"""cli status --events: the fault timeline, from when, and as JSON."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from bcpg_cluster.errors import UserError
from bcpg_cluster.store.faults import FaultEvent, FaultKind
from bcpg_cluster.store.manifest import Manifest
from bcpg_cluster_cli.watching.events import since_time

LOST = FaultEvent(
    FaultKind.REPLACEMENT, "judge.llm/0", "worker died \x1b[31m[/x]", "ended; another takes its place",
    round=1, pool="judge.llm", member="judge.llm/0", host="10.0.0.7", time=1_000_000.0,
)  # fmt: skip
MANY = FaultEvent(FaultKind.REQUEUE, "verify round 2 shard 3", "slow", round=2, time=1_000_600.0, num_times=50)


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    with Manifest(tmp_path) as manifest:
        manifest.create(identity="i", name="n", program_version="0")
        manifest.add_fault(LOST)
        manifest.add_fault(MANY)
    return tmp_path


def test_the_timeline_has_time_place_cause_and_consequence(run_dir: Path, bcpg: Callable[..., Any]):
    said = bcpg("status", "--events", "--run-dir", run_dir)
    assert said.code == 0
    first, second = (" ".join(line.split()) for line in said.out.splitlines() if "01-12" in line)
    assert first == (
        "01-12 13:46:40 1 replacement judge.llm/0: worker died ␛[31m[/x]; ended; another takes its place (host 10.0.0.7)"
    )
    assert second == "01-12 13:56:40 2 requeue verify round 2 shard 3 (50 times): slow"
    assert "replacement 1, requeue 50" in said.out
    assert "\x1b" not in said.out


def test_since_leaves_out_what_was_before(run_dir: Path, bcpg: Callable[..., Any]):
    found = json.loads(bcpg("status", "--since", "1970-01-12T13:50:00Z", "--json", "--run-dir", run_dir).out)
    assert [fault["what"] for fault in found] == ["verify round 2 shard 3"]
    assert "no faults since 10m" in bcpg("status", "--events", "--since", "10m", "--run-dir", run_dir).out


def test_status_counts_faults_by_kind(run_dir: Path, bcpg: Callable[..., Any]):
    assert "faults: replacement 1, requeue 50 (see `status --events`)" in bcpg("status", "--run-dir", run_dir).out
    assert json.loads(bcpg("status", "--json", "--run-dir", run_dir).out)["faults"] == {"replacement": 1, "requeue": 50}


@pytest.mark.parametrize(("since", "age_s"), [("90s", 90), ("10m", 600), ("1.5h", 5400), ("2d", 172800)])
def test_an_age_counts_back_from_now(since: str, age_s: float):
    assert since_time(since, 1e6) == 1e6 - age_s


def test_an_iso_time_is_local_unless_it_says():
    assert since_time("1970-01-12T13:46:40Z", 0.0) == 1e6
    assert since_time("2026-11-29", 0.0) == datetime(2026, 11, 29).timestamp()


@pytest.mark.parametrize("since", ["", "yesterday", "10", "-5m", "5 parsecs", "2026-13-01"])
def test_what_is_no_time(since: str):
    with pytest.raises(UserError, match="no time"):
        since_time(since, 0.0)


def test_what_was_and_what_is_are_asked_for_one_at_a_time(bcpg: Callable[..., Any], finished_run: Any):
    ended = bcpg("status", "--events", "--watch", "--run-dir", finished_run.directory)
    assert ended.code == 2
    assert "--watch was given with --events" in ended.err and "leave one of them out" in ended.err
