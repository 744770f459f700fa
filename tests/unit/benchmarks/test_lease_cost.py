"""benchmarks/lease_cost.py: its part without Ray runs, small, and divides by the leases there were."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

BENCHMARK = Path(__file__).parents[3] / "benchmarks" / "lease_cost.py"


def test_the_part_on_threads_runs_small(tmp_path: Path):
    options = ["--mode", "threads", "--members", "5", "--shards", "3", "--repeats", "1"]
    subprocess.run(
        [sys.executable, str(BENCHMARK), *options, "--json", str(tmp_path / "found.json")],
        check=True,
        capture_output=True,
    )
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["settings"]["leases a round"] == 3 * 6  # generate, verify, segment, two judges, weigh
    for name in ("first", "second"):
        of_round = {key: value["median"] for key, value in found["results"].items() if f"threads: {name} round" in key}
        assert 1 <= of_round[f"threads: {name} round, receipts a write to the manifest"] <= 18
        waited = of_round[f"threads: {name} round, waiting for the manifest's disk, ms"]
        assert 0 < waited <= of_round[f"threads: {name} round, wall, ms"]
