"""A process that may open no more files ends with three lines; with files again the same command resumes."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bcpg_cluster.store.manifest import read_manifest
from tests.reports import what_counts

# The command line in a process that takes the limit down to what is open once the manifest has so many lines.
STARVED = """
import os, resource, sys
from bcpg_cluster_cli import app
from bcpg_cluster.store.journals.in_directory import FileJournal
import bcpg_cluster.run.coordinator, bcpg_cluster.run.entry

left, append = [int(sys.argv.pop(1))], FileJournal.append

def starving(journal, lines):
    append(journal, lines)
    left[0] -= lines.count(b"\\n")
    if left[0] <= 0:
        free = os.open("/dev/null", os.O_RDONLY)
        resource.setrlimit(resource.RLIMIT_NOFILE, (free, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))

FileJournal.append = starving
app.main()
"""


@pytest.mark.parametrize("lines", [3, 24, 60])
def test_three_lines_and_a_clean_resume(
    lines: int, config_file: Path, tmp_path: Path, finished_run: Any, bcpg: Callable[..., Any]
):
    run_dir = tmp_path / "run"
    command = ["iterate", "-c", config_file, "--inline", "--run-dir", run_dir, "--rounds", "2"]
    ended = subprocess.run(
        [sys.executable, "-c", STARVED, str(lines), *map(str, command)],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert ended.returncode == 1, ended.stderr
    problem, rule, remedy, *beside = ended.stderr.splitlines()
    assert not beside or "beside it failed too" in beside[0]
    assert problem.startswith("error: ") and "this process has as many files open as it may" in problem
    assert rule.startswith("  rule: ") and "ulimit -n" in remedy
    read_manifest(run_dir)
    assert bcpg(*command).code == 0
    reports = read_manifest(run_dir).reports
    for round_ in range(3):
        assert what_counts(reports[round_]) == what_counts(finished_run.reports[round_])
