"""Nothing that decides reads the wall clock: it may jump a day back or forth in the middle of a run."""

from __future__ import annotations

import ast
import itertools
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import bcpg_cluster
from bcpg_cluster.config.run import Config
from bcpg_cluster.store.manifest import read_manifest
from bcpg_cluster.watch.live_status import LiveStatus, _is_due
from bcpg_cluster.watch.observer import Event, ShardAccepted, StageProgress
from tests.reports import what_counts
from tests.told import Heard

DAY_S = 86400.0
PACKAGE = Path(bcpg_cluster.__file__).parent


def wall_clocks(path: Path) -> Iterator[str]:
    """Where a file names the wall clock."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Attribute) and ast.unparse(node) in ("time.time", "time.time_ns", "datetime.now"):
            yield f"{path.relative_to(PACKAGE)}:{node.lineno}"


@pytest.mark.parametrize("room", ["cluster", "run", "stages"])
def test_pools_leases_and_links_do_not_know_it(room: str):
    found = {place.partition(":")[0] for path in (PACKAGE / room).rglob("*.py") for place in wall_clocks(path)}
    # An endpoint's Retry-After may be a date; what it comes to is capped by the judge's longest backoff.
    assert found <= {"stages/judge/endpoint/openai_transport.py"}


def test_a_run_over_jumps_is_the_run_without(
    run_rounds: Callable[..., Any],
    make_config: Callable[..., Config],
    finished_run: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    now, offset = time.time, [0.0]
    jumps = itertools.cycle([DAY_S, -DAY_S, 0.0])
    monkeypatch.setattr(time, "time", lambda: now() + offset[0])

    def jump(event: Event) -> None:
        if isinstance(event, ShardAccepted):
            offset[0] = next(jumps)

    run = run_rounds(tmp_path / "run", make_config(), 3, Heard(jump))
    for round_, report in finished_run.reports.items():
        assert what_counts(run.reports[round_]) == what_counts(report)
        assert all(0 <= seconds < 600 for seconds in run.reports[round_]["seconds"].values())
    assert read_manifest(run.directory).faults == read_manifest(finished_run.directory).faults
    written = [line["time"] for line in run_lines(run.directory) if line["event"] == "shard"]
    assert max(written) - min(written) > DAY_S  # the clock did jump


def run_lines(run_dir: Path) -> list[dict[str, Any]]:
    import json

    return [json.loads(line) for line in (run_dir / "manifest.jsonl").read_text().splitlines()]


def test_a_clock_set_back_stops_no_heartbeat_and_no_pace(tmp_path: Path, clock: Any):
    wall = [5000.0]
    live = LiveStatus(tmp_path, clock=lambda: wall[0], steady=clock)
    live.hear(StageProgress(1, "generate", 0, 10))
    clock.now += 20
    wall[0] -= DAY_S
    live.hear(StageProgress(1, "generate", 4, 10))
    assert live.content().stages[0].seconds_left == pytest.approx(30.0)  # 6 more at 5 s each
    written = live.content()
    assert not _is_due(live.content(), written)
    wall[0] -= DAY_S
    assert _is_due(live.content(), written)  # else the file would look dead for a day
