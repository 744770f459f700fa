"""Where pytest-xdist's workers run what: everything with engines in one of them."""

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
WITHOUT = """
import os, pytest
@pytest.mark.parametrize("n", range(3))
def test_quick(n): print(end=f"quick in {os.getpid()};")
"""


def test_files_with_engines_share_one_worker(tmp_path: Path) -> None:
    for name, content in (("a", WITH_ENGINES), ("b", WITHOUT), ("c", WITH_ENGINES)):
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
    quick = [part for part in said if part.startswith("quick in ")]
    assert (len(engines), len(quick)) == (8, 3)
    assert len(set(engines)) == 1
    assert {part.split()[-1] for part in engines}.isdisjoint({part.split()[-1] for part in quick})
