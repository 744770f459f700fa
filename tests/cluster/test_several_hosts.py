"""Two rounds of the main job on four hosts, launched by the real `ray up`, while host after host is taken away.

    BCPG_HOSTS=real python -m pytest -s tests/cluster/test_several_hosts.py     the embedded models; about 7 GiB
    python -m pytest -s tests/cluster/test_several_hosts.py                     fakes that take their time; about 3 GiB
    python -m tests.cluster.hosts --clean                                       after a kill -9 of either

Needs root, and Debian's openssh-server and rsync.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from bcpg_cluster.cluster.on_ray.link import answers
from bcpg_cluster.config.load import parse_config
from bcpg_cluster.store.manifest import ManifestState, read_manifest
from tests.cluster.hosts import SHARED, missing_parts
from tests.cluster.launched import REPOSITORY, Launched, launched, wait_until

_MISSING = missing_parts()
pytestmark = [
    pytest.mark.slow,
    pytest.mark.engine,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(_MISSING is not None, reason=_MISSING or ""),
]

REAL = os.environ.get("BCPG_HOSTS") == "real"
_PER_ROUND = 64
_RUN = "runs/several"


def _config() -> dict[str, Any]:
    """The chain's config (which fakes can answer), cut down, with every pool on a host of its own."""
    config: dict[str, Any] = yaml.safe_load((REPOSITORY / "configs" / "ablations" / "chain.yaml").read_text())
    config["prompts"]["per_round"] = _PER_ROUND
    config["generate"]["prompts_per_shard"] = 8
    config["train"] |= {"batch_sequences": 8, "checkpoint_every_steps": 1}
    config["evaluate"] = {"num_prompts": 24, "num_samples": 2, "prompts_per_shard": 12}
    pools = config["pools"]
    pools["rollout"] |= {"members": 1, "resources": {"rollout": 1}}
    pools["judge.llm"] |= {"max": 2, "resources": {"judge": 1}}
    pools["prm"]["resources"] = {"judge": 1}
    pools["trainer"]["resources"] = {"trainer": 1}  # one rank on the trainer host, one on the head
    if not REAL:
        config["policy"] = {"kind": "fake", "model": "fake"}
        for name in ("llm", "prm"):
            config["judges"][name] = {"kind": "fake", "precision": 0.9, "recall": 0.8, "pool": f"judge.{name}"}
        config["train"]["kind"] = "fake"
        pools["judge.prm"] = pools.pop("prm")
        pools["trainer"]["members"] = 1
        # The judge is slower than the rollouts that feed it, so that one of its two members is in the middle of a shard
        # when its host is cut off.
        for name, latency_s in (("rollout", "1"), ("judge.llm", "4"), ("trainer", "10")):
            pools[name]["env"] = {"BCPG_FAKE_LATENCY_S": latency_s}
    return config


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Launched]:
    with launched(tmp_path_factory.mktemp("cluster"), **({"trainer": 1} if REAL else {})) as made:
        wait_until(lambda: _nodes(made) == 4, 300, "not all workers joined")
        (made.shared / "several.yaml").write_text(yaml.safe_dump(_config()))
        yield made


def _nodes(cluster: Launched) -> int:
    found = [
        line.split()[0] for line in cluster.ray_exec("ray status").stdout.splitlines() if "local.cluster.node" in line
    ]
    return int(found[0]) if found else 0


def _iterate(rounds: int, run_dir: str | None = None) -> str:
    return f"bcpg-cluster iterate --rounds {rounds} --config {SHARED}/several.yaml --run-dir {run_dir or f'{SHARED}/{_RUN}'}"


class Watched:
    """The run under way."""

    def __init__(self, cluster: Launched, rounds: int) -> None:
        self.run_dir = cluster.shared / _RUN
        self.log = cluster.shared.parent / "iterate.txt"
        self.process: subprocess.Popen[bytes] = cluster.begin(_iterate(rounds), self.log)
        self.began = time.monotonic()

    def until(self, what: str, reached: Callable[[ManifestState], bool], timeout_s: float = 400) -> ManifestState:
        """Wait for a state of the run."""
        deadline = time.monotonic() + timeout_s
        while not reached(state := read_manifest(self.run_dir)):
            assert self.process.poll() is None, f"ended before {what}: {self.printed()}"
            assert time.monotonic() < deadline, f"not within {timeout_s:.0f} s: {what}: {self.printed()}"
            time.sleep(0.05)
        print(f"{time.monotonic() - self.began:6.1f} s  {what}", flush=True)
        return state

    def printed(self) -> str:
        return self.log.read_text()[-4000:]


def test_a_run_directory_that_a_host_does_not_see(cluster: Launched) -> None:
    """Every host has a /tmp of its own."""
    done = cluster.ray_exec(_iterate(1, "/tmp/runs/unseen"))
    assert done.returncode != 0
    assert "the run directory /tmp/runs/unseen is not visible from bcpgh" in done.stdout, done.stdout[-3000:]
    assert "mount it on that machine" in done.stdout


def test_two_rounds_while_hosts_go_and_come_back(
    cluster: Launched, run_rounds: Callable[..., Any], tmp_path: Path
) -> None:
    run = Watched(cluster, 2)
    hosts = cluster.hosts

    run.until("the first rollouts are in", lambda state: len(state.shards.get((1, "rollouts"), ())) >= 1)
    hosts["rollout"].cut()
    run.until("the rollout host is missed", lambda state: any("rollout/" in fault.what for fault in state.faults), 120)
    hosts["rollout"].mend()

    run.until("in training", lambda state: _is_training(state, run.run_dir))
    hosts["trainer"].cut()
    run.until("the trainer host is missed", lambda state: any(fault.pool == "trainer" for fault in state.faults), 180)
    hosts["trainer"].mend()

    scaled = cluster.ray_exec(f"bcpg-cluster scale judge.llm=2 --run-dir {SHARED}/{_RUN}")
    assert scaled.returncode == 0 and "judge.llm: 1 -> 2 members" in scaled.stdout, scaled.stdout[-3000:]

    run.until("the second round's judging", lambda state: len(state.shards.get((2, "verdicts.llm"), ())) >= 1, 600)
    hosts["judge"].cut()
    run.until("the judge host is missed", lambda state: any("judge" in fault.what for fault in state.faults), 120)
    hosts["judge"].mend()

    assert run.process.wait(600) == 0, run.printed()
    state = read_manifest(run.run_dir)
    print(json.dumps([fault.plain() for fault in state.faults], indent=1))
    assert set(state.reports) == {0, 1, 2}
    assert "judge.llm/1" in {fault.what for fault in state.faults}, "the second judge was on the host that was cut off"
    for round_ in (1, 2):
        assert state.pushes[round_].canaries == "passed"
        assert state.reports[round_].samples.asked == _PER_ROUND * 8
    for round_, table in ((1, "rollouts"), (2, "verdicts.llm")):
        written = {
            str(path.relative_to(run.run_dir)) for path in (run.run_dir / f"rounds/{round_:04d}/{table}").iterdir()
        }
        counted = {receipt.path for receipt in state.receipts(round_, table)}
        assert len(counted) == _PER_ROUND // 8
        assert counted < written, "the host that was cut off has written what it was at, and it counts nowhere"

    if not REAL:  # fakes say the same wherever they run: what was lost and done again changed nothing
        undisturbed = run_rounds(tmp_path / "undisturbed", parse_config(_config(), "test"), 2).reports
        for round_ in range(3):
            for key in ("accuracy", "accuracy_greedy", "per_problem"):
                assert state.reports[round_].plain()[key] == undisturbed[round_][key], (round_, key)


def test_a_job_is_submitted_from_the_laptop(cluster: Launched) -> None:
    """Through the forwarded port of the dashboard; the run is over, so that the job only says so."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    forwarded = cluster.begin_ray(
        cluster.shared.parent / "forward.txt", "dashboard", f"--port={port}", str(cluster.file)
    )
    try:
        wait_until(lambda: answers(f"127.0.0.1:{port}"), 60, "the port is not forwarded")
        command = ["job", "submit", "--address", f"http://127.0.0.1:{port}", "--", *_iterate(2).split()]
        done = cluster.ray(*command)
    finally:
        forwarded.terminate()
        forwarded.wait()
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "all 2 rounds are done already" in " ".join(done.stdout.split())


def _is_training(state: ManifestState, run_dir: Path) -> bool:
    if REAL:
        return (1, "reference") in state.sealed and any((run_dir / "rounds/0001/checkpoint").rglob("progress.json"))
    return (1, "weighted") in state.sealed
