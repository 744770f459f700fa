"""benchmarks/scale_simulation.py: it runs, small, and what it simulates is the real data flow."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bcpg_cluster.cluster.leases import PoolLimits
from bcpg_cluster.cluster.pool import Pool
from bcpg_cluster.cluster.runtime import MemberSpec
from bcpg_cluster.run.dataflow import Dataflow
from bcpg_cluster.stages.graph import data_stages
from bcpg_cluster.stages.job import StageJob
from bcpg_cluster.store.manifest import Manifest, read_manifest
from bcpg_cluster.watch.observer import Event, ShardAccepted

BENCHMARKS = Path(__file__).parents[3] / "benchmarks"
STAGES = data_stages({"llm": "judge.llm", "prm": "judge.prm"})


@pytest.fixture
def members(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import simulated_members

    return simulated_members


class Times:
    """When each shard of each table was accepted, in simulated seconds."""

    def __init__(self, clock: Any) -> None:
        self.clock = clock
        self.accepted: dict[tuple[str, int], float] = {}

    def hear(self, event: Event) -> None:
        if isinstance(event, ShardAccepted):
            key = event.receipt.table, event.receipt.shard
            assert key not in self.accepted
            self.accepted[key] = self.clock()


def simulate(members: Any, run_dir: Path, num_shards: int, sizes: dict[str, int], seed: int) -> Times:
    time = members.SimulatedTime()
    runtime = members.SimulatedRuntime(time, seed)
    pools = {
        name: Pool(
            name, runtime, lambda k, name=name: MemberSpec(f"{name}/{k}", dict, {}), PoolLimits(), clock=time.clock
        )
        for name in sizes
    }
    for name, pool in pools.items():
        pool.resize(sizes[name])
    times = Times(time.clock)
    with Manifest(run_dir) as manifest:
        jobs = (StageJob("", "prompts", "prompts", 1, shard, "p", {}) for shard in range(num_shards))
        manifest.accept_all([members.receipt_of(job, 0.0) for job in jobs])
        Dataflow(
            manifest, pools, STAGES, 1, num_shards, {"policy_version": 0}, observer=times, clock=time.clock, bell=time
        ).run()
    return times


def test_simulated_time_keeps_the_order_and_the_latencies(members: Any, tmp_path: Path):
    sizes = {"rollout": 3, "judge.llm": 2, "judge.prm": 1, "cpu": 1}
    times = simulate(members, tmp_path / "one", 30, sizes, seed=4)
    assert len(times.accepted) == 30 * len(STAGES)
    for stage in STAGES:
        for shard in range(30):
            after = max((times.accepted[t, shard] for t in stage.inputs if t != "prompts"), default=0.0)
            took = members.latency(stage.name, 4, shard)
            assert times.accepted[stage.output, shard] >= after + took - 1e-6
    work = sum(members.latency("generate", 4, shard) for shard in range(30)) / sizes["rollout"]
    assert max(times.accepted.values()) >= work
    assert read_manifest(tmp_path / "one").sealed.keys() == {(1, stage.output) for stage in STAGES}
    assert simulate(members, tmp_path / "again", 30, sizes, seed=4).accepted == times.accepted
    assert simulate(members, tmp_path / "other", 30, sizes, seed=5).accepted != times.accepted


def test_members_that_never_answer_are_an_error_and_no_hang(members: Any):
    with pytest.raises(RuntimeError, match="nothing is under way"):
        members.SimulatedTime().wait(0.5)


def test_the_small_variant_runs_and_more_judges_help_until_they_do_not(tmp_path: Path):
    command = [sys.executable, str(BENCHMARKS / "scale_simulation.py"), "--small"]
    options = ["--json", str(tmp_path / "small.json"), "--figures", str(tmp_path)]
    ended = subprocess.run([*command, *options], capture_output=True, text=True, timeout=300, check=False)
    assert ended.returncode == 0, ended.stdout[-2000:] + ended.stderr[-2000:]
    content = json.loads((tmp_path / "small.json").read_text())
    found = {name: summary["median"] for name, summary in content["results"].items()}
    # 60 shards x (prompts and 6 tables), and 3 evaluations x 4 shards x 3 tables
    assert found["driver: receipts"] == 60 * 7 + 36
    assert found["driver: million samples"] == pytest.approx(60 * 512 / 1e6)
    assert found["1 LLM judges: judge.llm"] > 0.9  # the judge is what all wait for
    assert found["1 LLM judges: wall"] > 1.3 * found["8 LLM judges: wall"]
    assert found["8 LLM judges: judge.llm"] < 0.3
    assert found["8 LLM judges: wall"] >= 0.8 * found["8 LLM judges: bound"]  # which is of the mean latencies
    assert all(0 < found[f"{n} LLM judges: {pool}"] <= 1 for n in (1, 2, 8) for pool in ("rollout", "judge.prm", "cpu"))
    assert found["inline: receipts/s"] > 0
    assert {"device", "commit", "versions"} <= content["facts"].keys()
    assert (tmp_path / "judges.png").read_bytes().startswith(b"\x89PNG")
