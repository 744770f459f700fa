"""Judges that come and go change no verdict: pools resized by queue and by hand, members killed and stopped, drivers killed."""

from __future__ import annotations

import itertools
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from bcpg_cluster.cluster.inline_runtime import InlineRuntime
from bcpg_cluster.config.run import Config
from bcpg_cluster.run.build.assembly import coordinator_over, newest_weights
from bcpg_cluster.run.build.workforce import start_workforce
from bcpg_cluster.run.directory import open_run
from bcpg_cluster.run.preflight.prompts import read_all_prompts
from bcpg_cluster.stages.fakes.faults import LATENCY
from bcpg_cluster.store.manifest import read_manifest
from bcpg_cluster.store.rows import Row
from bcpg_cluster.store.shards import read_table
from bcpg_cluster.watch.control import Control
from bcpg_cluster.watch.observer import Event, Faulted, ShardAccepted
from tests.listening import descendants
from tests.told import Heard

pytestmark = pytest.mark.slow

JUDGES = ("llm", "far", "prm")
BY_QUEUE, *BY_HAND = POOLS = ("judge.llm", "judge.far", "prm")
SIZES = (4, 2, 1)


@pytest.fixture
def config(make_config: Callable[..., Config]) -> Config:
    """Two LLM pools and a PRM's over three rounds of 40 prompts; a lease is one prompt's wrong responses."""
    by_queue = {"target_queue_per_actor": 1, "scale_down_after_s": 0.5}
    common = {"min": 1, "max": 4, "leases_per_member": 2, "max_attempts": 50, "silence_timeout_s": 6, "num_cpus": 0.01}
    slow = {"env": {LATENCY: "0.3"}}
    return make_config(
        judges={
            "llm": {"kind": "fake", "pool": "judge.llm", "precision": 0.9, "recall": 0.8},
            "far": {"kind": "fake", "pool": "judge.far", "precision": 0.8, "recall": 0.9},
            "prm": {"kind": "fake", "pool": "prm", "precision": 0.85, "recall": 0.7},
        },
        prompts={"per_round": 40},
        generate={"group_size": 50, "prompts_per_shard": 1},
        pools={
            BY_QUEUE: {**common, **by_queue, **slow},
            **{name: {**common, **slow} for name in BY_HAND},
            **{name: {"num_cpus": 0.01} for name in ("rollout", "cpu", "trainer")},
        },
    )


def verdicts(run_dir: Path, rounds: int) -> dict[tuple[int, str], list[Row]]:
    """All verdict rows by round and judge; every row about another step."""
    state, found = read_manifest(run_dir), {}
    for round_, judge in itertools.product(range(1, rounds + 1), JUDGES):
        rows = read_table(run_dir, state.receipts(round_, f"verdicts.{judge}"))
        rows.sort(key=lambda row: (row["prompt_id"], row["sample"], row["step"]))
        keys = [(row["prompt_id"], row["sample"], row["step"]) for row in rows]
        assert len(keys) == len(set(keys))
        found[round_, judge] = rows
    return found


def num_requests(found: dict[tuple[int, str], list[Row]]) -> int:
    """Responses that judges were asked about."""
    return sum(len({(row["prompt_id"], row["sample"]) for row in rows}) for rows in found.values())


class DriverGone(BaseException):
    """As abrupt as a process in this process can end."""


class Trouble:
    """Resizes and kills as shards come in; ends the driver at the ``last``."""

    def __init__(self, pools: dict[str, Any], rng: random.Random, sizes: Iterator[int], last: int | None) -> None:
        self.pools, self.rng, self.sizes, self.last = pools, rng, sizes, last
        self.num_accepted = self.num_kills = 0
        self.seen: set[tuple[str, int]] = set()
        self.heard = Heard(self.make)
        self.hear = self.heard.hear

    def make(self, event: Event) -> None:
        if not (isinstance(event, ShardAccepted) and event.stage.startswith("judge.")):
            return
        self.num_accepted += 1
        if self.num_accepted % 9 == 0:
            size = next(self.sizes)
            for name in BY_HAND:
                self.pools[name].resize(size)
        self.seen |= {(name, pool.size) for name, pool in self.pools.items()}
        if self.num_accepted % 5 == 0:
            members = self.pools[self.rng.choice(POOLS)].members()
            if members:
                self.num_kills += 1
                self.rng.choice(members).kill()
        if self.num_accepted == self.last:
            raise DriverGone


def test_members_killed_pools_resized_and_drivers_gone_change_no_verdict(
    config: Config, run_rounds: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
):
    monkeypatch.setenv(LATENCY, "0.005")
    rng, sizes, run_dir = random.Random(4), itertools.cycle(SIZES), tmp_path / "run"
    troubles: list[Trouble] = []
    for last in (70, 120, None):
        runtime = InlineRuntime()
        with open_run(run_dir, config) as manifest, suppress(DriverGone):
            workforce = start_workforce(config, runtime, lambda: False, newest_weights(config, manifest))
            trouble = Trouble({name: workforce.pools[name] for name in POOLS}, rng, sizes, last)
            troubles.append(trouble)
            prompts = read_all_prompts(config)
            coordinator_over(workforce, config, manifest, trouble, lambda: False, prompts).run(3)
        runtime.shutdown()
    found = verdicts(run_dir, 3)
    assert found == verdicts(run_rounds(tmp_path / "calm", config, 3).directory, 3)
    assert num_requests(found) >= 5000
    num_kills = sum(trouble.num_kills for trouble in troubles)
    num_retries = sum(len(trouble.heard.of(Faulted)) for trouble in troubles)
    assert num_kills >= 50 and num_retries >= num_kills
    seen = set.union(*(trouble.seen for trouble in troubles))
    assert {(name, size) for name in BY_HAND for size in SIZES} <= seen
    assert len({size for name, size in seen if name == BY_QUEUE}) > 1
    with capsys.disabled():
        print(
            f"\n  {num_requests(found)} requests, {sum(map(len, found.values()))} verdicts, {num_kills} kills,", end=""
        )
        print(f" {num_retries} retries, {len(troubles)} drivers: all as undisturbed", end="")


@dataclass
class Drivers:
    """Drivers of one run, each with a Ray of its own on this machine."""

    command: list[str]
    log: Path
    process: subprocess.Popen[bytes] | None = None
    stopped: list[int] = field(default_factory=list)

    def start(self) -> subprocess.Popen[bytes]:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(self.command, stdout=log, stderr=log)
        return self.process

    def judges(self) -> list[int]:
        """The judges' processes: children of the raylet that the driver started."""
        assert self.process is not None
        raylets = descendants(self.process.pid, "/raylet/raylet ")
        return [pid for raylet in raylets for role in ("judge", "prm") for pid in descendants(raylet, f"ray::{role}")]

    def strike(self, rng: random.Random, blow: signal.Signals) -> bool:
        """Kill or stop one of the judges, where there is one."""
        judges = sorted(set(self.judges()) - set(self.stopped))
        if not judges:
            return False
        pid = rng.choice(judges)
        with suppress(ProcessLookupError):
            os.kill(pid, blow)
        if blow is signal.SIGSTOP:
            self.stopped.append(pid)
        return True

    def end(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
        for pid in self.stopped:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


@pytest.fixture
def drivers(config: Config, tmp_path: Path) -> Iterator[Drivers]:
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(config.model_dump(mode="json")))
    command = [str(Path(sys.executable).with_name("bcpg-cluster")), "iterate", "--address", "local", "--rounds", "3"]
    made = Drivers([*command, "--config", str(path), "--run-dir", str(tmp_path / "run")], tmp_path / "log.txt")
    yield made
    made.end()


@pytest.mark.engine
def test_processes_killed_and_stopped_change_no_verdict(
    drivers: Drivers, config: Config, run_rounds: Callable[..., Any], tmp_path: Path, capsys: Any
):
    rng, sizes, run_dir = random.Random(6), itertools.cycle(SIZES), tmp_path / "run"
    blows = itertools.cycle([signal.SIGKILL, signal.SIGSTOP, signal.SIGKILL, signal.SIGKILL])
    num_struck, deadline, control = 0, time.monotonic() + 550, Control(run_dir)

    def num_judged() -> int:
        tables = read_manifest(run_dir).shards.items() if run_dir.exists() else ()
        return sum(len(shards) for (_, table), shards in tables if table.startswith("verdicts."))

    for last in (90, 200, None):  # verdict shards after which a driver is killed
        process, next_blow = drivers.start(), num_judged() + 6
        while process.poll() is None and (last is None or num_judged() < last):
            assert time.monotonic() < deadline, drivers.log.read_text()[-3000:]
            if num_judged() >= next_blow and drivers.strike(rng, next(blows)):
                num_struck += 1
                next_blow = num_judged() + 18
                control.ask(dict.fromkeys(BY_HAND, next(sizes)), "a test")
            time.sleep(0.2)
        if last is not None:
            process.kill()
            process.wait()
    assert process.wait() == 0, drivers.log.read_text()[-3000:]
    found = verdicts(run_dir, 3)
    assert found == verdicts(run_rounds(tmp_path / "calm", config, 3).directory, 3)
    assert num_requests(found) >= 5000
    assert num_struck >= 10 and drivers.stopped
    with capsys.disabled():
        print(
            f"\n  {num_requests(found)} requests, {sum(map(len, found.values()))} verdicts; {num_struck} processes struck,",
            end="",
        )
        print(f" {len(drivers.stopped)} of them stopped; 3 drivers: all as undisturbed", end="")
