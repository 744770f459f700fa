"""The script that re-makes the paper's comparisons, small, on the real engines."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PARTS = ("methods", "labels", "beta", "noise", "sft", "efficiency", "rounds", "extensions")


@pytest.mark.slow
@pytest.mark.engine
def test_every_part_of_the_tables_runs_on_real_engines(tmp_path: Path):
    command = [
        sys.executable,
        str(ROOT / "benchmarks/paper_tables.py"),
        "--small",
        "--seeds",
        "1",
        "--out",
        str(tmp_path),
        "--part",
        *PARTS,
    ]
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    ended = subprocess.run(command, capture_output=True, text=True, timeout=850, env=environment, check=False)
    assert ended.returncode == 0, ended.stdout[-3000:] + ended.stderr[-3000:]
    for part in PARTS:
        page, raw = (tmp_path / f"{part}.md").read_text(), json.loads((tmp_path / f"{part}.json").read_text())
        assert (tmp_path / f"{part}.png").read_bytes().startswith(b"\x89PNG")
        arms = {run["arm"]: run for run in raw["runs"] if run["round"] == 1}
        assert len(arms) >= 2 and "| start |" in page
        for name, run in arms.items():
            assert run["status"] in ("finished", "stopped_early"), (part, name, run["note"])
            assert run["report"]["push"]["canaries"] == "passed", (part, name)
            assert run["report"]["train"]["steps"] >= 1
            assert run["report"]["more_tests"]["longer"]["num_problems"] > 0
    mined = {run["arm"]: run["report"]["mined_share"] for run in raw_runs(tmp_path, "labels")}
    assert mined["bcpg_nsa"] <= min(mined["labels-llm"], mined["labels-prm"])  # both must agree
    assert len({run["round"] for run in raw_runs(tmp_path, "rounds") if run["arm"] == "rft"}) == 2


def raw_runs(out: Path, part: str) -> list[dict]:
    return [run for run in json.loads((out / f"{part}.json").read_text())["runs"] if run["round"] > 0]
