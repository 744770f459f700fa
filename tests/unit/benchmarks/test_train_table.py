"""benchmarks/train_table.py runs, and its two sides see the same rows."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

BENCHMARK = Path(__file__).parents[3] / "benchmarks" / "train_table.py"


def test_the_benchmark_runs_small(tmp_path: Path):
    """It ends with an error where objects and table differ in a number."""
    ended = subprocess.run(
        [
            sys.executable, str(BENCHMARK), "--tokens", "2e5", "--objects-tokens", "2e5", "--ranks", "1", "--scratch",
            str(tmp_path), "--json", str(tmp_path / "out"),
        ],
        capture_output=True,
        text=True,
        check=False,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    rows = json.loads((tmp_path / "out").read_text())["results"]
    medians = {name.partition(": ")[2]: row["median"] for name, row in rows.items() if name.startswith("objects")}
    assert medians["share of the table's tokens"] == 1.0
    assert medians["peak bytes a token of the table"] > 50
    assert 13 < rows["decoded files, bytes a token of the table"]["median"] < 15
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
