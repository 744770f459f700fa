"""A seeded part of `make drills`: nothing is lost, nothing is twice there, nothing is invented."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.hosts import missing_parts

ROOT = Path(__file__).parents[2]
_MISSING = missing_parts()


def drilled(out: Path, *arguments: str) -> list[dict[str, Any]]:
    command = [sys.executable, "-m", "tests.drills", *arguments, "--json", str(out)]
    done = subprocess.run(command, cwd=ROOT, env=dict(os.environ), capture_output=True, text=True, timeout=1200)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    results: list[dict[str, Any]] = json.loads(out.read_text())["results"]
    return results


def test_files_and_durable_operations(tmp_path: Path) -> None:
    results = drilled(tmp_path / "drills.json", "--files", "60", "--operations", "60")
    assert {result["drill"]["kind"] for result in results} == {"file", "operation"}
    assert len(results) >= 10


@pytest.mark.slow
@pytest.mark.engine
def test_members_driver_and_ray_itself(tmp_path: Path) -> None:
    results = drilled(tmp_path / "drills.json", "--members", "6", "--drivers", "2", "--cluster", "2")
    hit = {result["drill"]["target"] for result in results if result["outcome"] != "unhurt"}
    assert len(results) == 10 and {"driver", "raylet", "gcs"} <= hit


@pytest.mark.slow
@pytest.mark.engine
def test_a_full_object_store(tmp_path: Path) -> None:
    (result,) = drilled(tmp_path / "drills.json", "--store", "1")
    assert result["drill"]["target"] == "object store"


@pytest.mark.slow
@pytest.mark.engine
@pytest.mark.skipif(_MISSING is not None, reason=_MISSING or "")
def test_a_link_that_is_cut(tmp_path: Path) -> None:
    """Longer than its members' silence is borne, so that they are missed."""
    results = drilled(tmp_path / "drills.json", "--links", "2", "--seed", "5")
    assert [result["drill"]["kind"] for result in results] == ["link"] * 2
    assert {result["outcome"] for result in results} == {"repaired"}
