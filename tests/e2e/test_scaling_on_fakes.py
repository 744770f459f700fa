"""A run that goes on in another process: its judges follow their queue, a person resizes its pools, and nothing is lost."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from bcpg_cluster.config.load import parse_config
from bcpg_cluster.config.run import Config
from bcpg_cluster.store.manifest import read_manifest
from bcpg_cluster.store.rows import verdicts_from
from bcpg_cluster.store.shards import read_shard, read_table

# The command line in a process of its own, with a judge that waits at a gate: its queue is as long as the test wants.
GATED = """
import sys, time
from pathlib import Path
from bcpg_cluster.stages.fakes.judge import FakeJudge
from bcpg_cluster_cli import app

gate = Path(sys.argv.pop(1))
judge = FakeJudge.judge

def judge_behind_the_gate(self, *given):
    while self.name == "llm" and not gate.exists():
        time.sleep(0.02)
    return judge(self, *given)

FakeJudge.judge = judge_behind_the_gate
app.main()
"""


class GatedRun:
    def __init__(self, folder: Path, content: dict[str, Any]) -> None:
        self.directory, self.gate, self.log = folder / "run", folder / "gate", folder / "log"
        self.config_file = folder / "config.yaml"
        self.config_file.write_text(yaml.safe_dump(content))
        self.config: Config = parse_config(content, "test")
        self._processes: list[subprocess.Popen[bytes]] = []

    def start(self) -> subprocess.Popen[bytes]:
        arguments = ["iterate", "-c", self.config_file, "--run-dir", self.directory, "--rounds", "1", "--inline"]
        with self.log.open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-c", GATED, str(self.gate), *map(str, arguments)], stdout=log, stderr=log
            )
        self._processes.append(process)
        return process

    def live(self) -> dict[str, Any]:
        path = self.directory / "live.json"
        return json.loads(path.read_text()) if path.exists() else {}

    def pool(self, name: str) -> dict[str, Any]:
        return next((pool for pool in self.live().get("pools", []) if pool["name"] == name), {})

    def wait_for(self, is_so: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 90
        while not is_so():
            assert time.monotonic() < deadline, (self.live(), self.log.read_text()[-3000:])
            assert self._processes[-1].poll() is None, self.log.read_text()[-3000:]
            time.sleep(0.05)

    def states(self, name: str) -> list[str]:
        return sorted(member["state"] for member in self.pool(name).get("members", []))

    def end(self) -> None:
        for process in self._processes:
            if process.poll() is None:
                process.kill()
            process.wait()


@pytest.fixture
def gated(tmp_path: Path, fakes_content: Callable[[], dict[str, Any]]) -> Iterator[GatedRun]:
    content = fakes_content()
    content["generate"]["prompts_per_shard"] = 1  # 12 shards
    content["evaluate"]["num_prompts"] = 6
    content["judges"]["llm"]["pool"] = "judge.llm"
    content["pools"] = {
        "rollout": {"max": 2},
        "judge.llm": {"max": 4, "target_queue_per_actor": 3, "leases_per_member": 1, "scale_down_after_s": 600},
    }
    run = GatedRun(tmp_path, content)
    yield run
    run.end()


def test_judges_follow_their_queue_and_a_person_resizes_pools(
    gated: GatedRun, bcpg: Callable[..., Any], run_rounds: Callable[..., Any], tmp_path: Path
):
    run_dir = gated.directory
    process = gated.start()
    gated.wait_for(lambda: gated.states("judge.llm") == ["ready"] * 4)  # 12 shards, one member for three
    assert (gated.pool("judge.llm")["size"], gated.pool("judge.llm")["sized_by"]) == (4, "queue")
    gated.wait_for(lambda: gated.pool("judge.llm")["num_leased"] == 4 and gated.pool("judge.llm")["num_queued"] == 8)

    asked = bcpg("scale", "judge.llm=2", "rollout=2", "--run-dir", run_dir)
    assert asked.code == 0, asked.err
    assert "judge.llm: 4 -> 2 members (until it is scaled again or the run ends)" in asked.out
    assert "rollout: 1 -> 2 members" in asked.out
    gated.wait_for(lambda: gated.states("judge.llm") == ["draining"] * 2 + ["ready"] * 2)
    assert gated.pool("judge.llm")["num_leased"] == 4  # they finish what they have
    gated.wait_for(lambda: gated.states("rollout") == ["ready"] * 2)
    shown = bcpg("status", "--run-dir", run_dir)
    for words in ("running, round 1", "person", "judge.llm/3", "draining", "4 -> 2 members (asked for by"):
        assert words in shown.out, words

    back = bcpg("scale", "judge.llm=auto", "--run-dir", run_dir, "--json")
    assert json.loads(back.out) == {"judge.llm": {"before": 2, "after": 4}}
    gated.wait_for(lambda: gated.states("judge.llm") == ["ready"] * 4)  # those that were to go stay

    for sizes, words in (
        (["judge.x=2"], "unknown pool 'judge.x'"),
        (["judge.llm=0"], "pools.judge.llm.min is 1"),
        (["judge.llm=9"], "pools.judge.llm.max is 4"),
        (["trainer=2"], "trainer group cannot be resized"),
        (["cpu=auto"], "it has none"),
        (["judge.llm"], "is not POOL=MEMBERS"),
    ):
        refused = bcpg("scale", *sizes, "--run-dir", run_dir)
        assert refused.code == 2
        assert words in refused.err

    assert bcpg("scale", "judge.llm=1", "--run-dir", run_dir).code == 0
    process.send_signal(signal.SIGKILL)  # between the resize and the end of the drain
    process.wait()
    over = bcpg("scale", "judge.llm=2", "--run-dir", run_dir)
    assert over.code == 2
    assert "did not end properly" in over.err
    assert "bcpg-cluster iterate" in over.err
    assert "not running" in bcpg("status", "--run-dir", run_dir).out

    gated.gate.touch()
    assert gated.start().wait(120) == 0, gated.log.read_text()[-3000:]
    over = bcpg("scale", "judge.llm=2", "--run-dir", run_dir)
    assert over.code == 2
    assert "not running: done" in over.err
    facts = json.loads(bcpg("status", "--run-dir", run_dir, "--json").out)
    assert (facts["is_running"], facts["live"]["ended"]["how"]) == (False, "done")
    watched = bcpg("status", "--run-dir", run_dir, "--watch")
    assert watched.code == 0
    assert "not running: done" in watched.out

    run_rounds(tmp_path / "alone", gated.config, 1)
    state, left_alone = read_manifest(run_dir), read_manifest(tmp_path / "alone")
    for key in ("accuracy", "samples", "mined_share", "per_problem"):
        assert getattr(state.reports[1], key) == getattr(left_alone.reports[1], key)
    rows = read_table(run_dir, state.receipts(1, "verdicts.llm"))
    alone = read_table(tmp_path / "alone", left_alone.receipts(1, "verdicts.llm"))
    assert verdicts_from(rows) == verdicts_from(alone)
    for receipts in state.shards.values():
        for receipt in receipts.values():
            read_shard(run_dir, receipt)


def test_a_new_rollout_member_holds_the_newest_weights(gated: GatedRun, bcpg: Callable[..., Any]):
    """Asked for while round 1's judges work; the push at its end reaches both members, and both evaluate with v1."""
    process = gated.start()
    gated.wait_for(lambda: gated.pool("judge.llm").get("num_leased") == 4)
    assert bcpg("scale", "rollout=2", "--run-dir", gated.directory).code == 0
    gated.gate.touch()
    assert process.wait(120) == 0, gated.log.read_text()[-3000:]
    state = read_manifest(gated.directory)
    assert state.pushes[1].num_members == 2
    assert state.pushes[1].canaries == "passed"
    versions = {row["policy_version"] for row in read_table(gated.directory, state.receipts(1, "eval_rollouts"))}
    assert versions == {1}


def test_a_directory_that_is_no_run(tmp_path: Path, bcpg: Callable[..., Any]):
    refused = bcpg("scale", "judge.llm=2", "--run-dir", tmp_path)
    assert refused.code == 2
    assert "is not a run" in refused.err
