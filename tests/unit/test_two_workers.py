"""Where pytest-xdist's workers run what: everything with engines in one of them, everything with hosts in another."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
WITH_ENGINES = """
import os, pytest
@pytest.mark.engine
@pytest.mark.parametrize("n", range(3))
def test_engine(n): print(end=f"engine in {os.getpid()};")
def test_beside(): print(end=f"engine in {os.getpid()};")
"""
WITH_HOSTS = """
import os, pytest
missing_parts = lambda: None
_MISSING = missing_parts()
@pytest.mark.engine
def test_hosts(): print(end=f"hosts in {os.getpid()};")
"""
WITHOUT = """
import os, pytest
@pytest.mark.parametrize("n", range(3))
def test_quick(n): print(end=f"quick in {os.getpid()};")
"""


def test_files_with_engines_share_one_worker(tmp_path: Path) -> None:
    files = {"a": WITH_ENGINES, "b": WITHOUT, "c": WITH_ENGINES, "d": WITH_HOSTS, "e": WITH_HOSTS}
    for name, content in files.items():
        (tmp_path / f"test_{name}.py").write_text(content)
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers = engine\n")
    (tmp_path / "two_workers.py").write_text((ROOT / "tests" / "two_workers.py").read_text())
    command = [sys.executable, "-m", "pytest", "-n", "2", "-rP", "-p", "two_workers", "-p", "no:cacheprovider"]
    done = subprocess.run(
        command, cwd=tmp_path, env={"PATH": "", "PYTHONPATH": str(tmp_path)}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    said = [part.strip() for part in done.stdout.replace("\n", ";").split(";") if " in " in part]
    engines = [part for part in said if part.startswith("engine in ")]
    beside = {what: [part for part in said if part.startswith(f"{what} in ")] for what in ("hosts", "quick")}
    assert (len(engines), len(beside["hosts"]), len(beside["quick"])) == (8, 2, 3)
    assert len(set(engines)) == len(set(beside["hosts"])) == 1
    for parts in beside.values():
        assert {part.split()[-1] for part in engines}.isdisjoint({part.split()[-1] for part in parts})
