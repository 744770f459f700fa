"""The script that re-makes the paper's comparisons: in pieces on fakes, and small on the real engines."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
SETS = ("main", "sft", "labels", "shares", "rounds", "rules", "further")


def paper_tables(out: Path, *arguments: object) -> str:
    command = [sys.executable, str(ROOT / "benchmarks/paper_tables.py"), "--small", "--out", str(out)]
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    ended = subprocess.run(
        [*command, *map(str, arguments)], capture_output=True, text=True, timeout=850, env=environment, check=False
    )
    assert ended.returncode == 0, ended.stdout[-3000:] + ended.stderr[-3000:]
    return ended.stdout


def runs(out: Path, task: str) -> dict[tuple[str, int, int], dict[str, Any]]:
    content = json.loads((out / f"{task}.json").read_text())
    return {(run["arm"], run["seed"], run["round"]): run for run in content["runs"]}


def test_it_is_made_in_pieces_and_from_its_numbers_alone(tmp_path: Path, config_file: Path):
    common = ("--task", "chain", "--config", config_file, "--inline", "--seeds", 2)
    sets = ("--set-of-arms", "main", "labels", "rules")
    said = paper_tables(tmp_path, *common, *sets, "--budget-minutes", 0)
    assert "run the same command again for the rest" in said and "18 runs left" in " ".join(said.split())
    assert {arm for arm, _, _ in runs(tmp_path, "chain")} == {"start"}
    said = paper_tables(tmp_path, *common, *sets)
    assert "everything is done" in said
    found = runs(tmp_path, "chain")
    assert len(found) == 2 * (1 + 2 + 3 + 4)
    assert {run["machine"] for run in found.values()} == {0, 1}
    claims = (tmp_path / "chain/claims.md").read_text()
    assert "| BCPG-NSA, β = −0.5 ahead of RFT |" in claims and "| not run |" in claims
    labels = (tmp_path / "chain/labels.md").read_text()
    rows = [line.split(" | ")[0].strip("| ") for line in labels.splitlines() if line.startswith("| ")]
    assert rows[2:7] == [  # in the order of the arms
        "start",
        "consensus of llm and prm",
        "llm only",
        "prm only",
        "majority of 3",
    ]
    assert "load at the start" in labels and "seeds 0, 1" in labels
    shutil.rmtree(tmp_path / "chain")  # another machine: it has the numbers, and not the runs
    assert "everything is done" in paper_tables(tmp_path, *common, *sets)
    assert runs(tmp_path, "chain") == found and not (tmp_path / "chain/comparison").exists()
    assert (tmp_path / "chain/claims.md").read_text() == claims
    assert (tmp_path / "chain/labels.md").read_text() == labels


@pytest.mark.slow
@pytest.mark.engine
def test_every_set_of_the_tables_runs_on_real_engines(tmp_path: Path):
    paper_tables(tmp_path, "--seeds", 1, "--set-of-arms", *SETS)
    found = runs(tmp_path, "sums")
    for name in SETS:
        page = (tmp_path / f"sums/{name}.md").read_text()
        assert (tmp_path / f"sums/{name}.png").read_bytes().startswith(b"\x89PNG")
        assert "| start |" in page and "Not run yet" not in page
    for key, run in found.items():
        assert run["status"] in ("finished", "stopped_early"), (key, run["note"])
        assert run["numbers"]["more_tests"]["longer"]["accuracy"] is not None, key
        assert key[0] == "start" or run["numbers"]["steps"] >= 1, key
    mined = {arm: run["numbers"]["mined_share"] for (arm, _, round_), run in found.items() if round_ == 1}
    assert mined["bcpg_nsa@-0.5"] <= min(mined["labels-llm"], mined["labels-prm"])  # both must agree
    assert {round_ for arm, _, round_ in found if arm == "rft"} == {1, 2}
