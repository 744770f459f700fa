"""Cut links: the small run on three hosts of a network of their own, one of which is cut off from the others.

The driver and Ray's head are on the first host, the members on the other two. Needs what ``tests.cluster.hosts`` needs.
"""

from __future__ import annotations

import secrets
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import yaml

from tests.cluster.hosts import NETWORK, Host, several_hosts
from tests.drills.records import Drill
from tests.drills.small_run import DEADLINES, write_small_run
from tests.drills.strikes import Hit, Place, with_calm_run
from tests.ray_head import BIN

_PORT = 6379
_ADDRESS = f"{NETWORK}.10:{_PORT}"
_CUT_S = {"short cut": 3.0, "long cut": 15.0, "cut off": 75.0}  # Ray gives a node up after some 45 s
_HOST_OF = {
    "rollout": "one",
    "cpu": "two",
    "judge.llm": "two",
    "judge.second": "one",
    "prm": "two",
    "trainer": "one",
}
_JOIN_S = 120.0


@contextmanager
def link_place(folder: Path) -> Iterator[Place]:
    """Three hosts with a Ray, and an undisturbed run there."""
    shared = folder / "hosts" / "shared"
    # Where this machine sees it, so that paths mean the same on both sides.
    same_path = f"mkdir -p {shared}; mount --bind /mnt/shared {shared}"
    with several_hosts(["head", "one", "two"], folder / "hosts", same_path) as hosts:
        network = _Network(hosts)
        network.start()
        through = [*hosts["head"].ssh_words, "env", *network.environment]
        run = write_small_run(shared, {}, through=through, **DEADLINES)
        config = yaml.safe_load(run.config.read_text())
        for pool, host in _HOST_OF.items():
            config["pools"][pool]["resources"] = {host: 1}
        run.config.write_text(yaml.safe_dump(config))
        yield with_calm_run(run, ("--address", _ADDRESS), shared / "calm", network.aim)


class _Network:
    """The hosts, with a Ray on each."""

    def __init__(self, hosts: Mapping[str, Host]) -> None:
        self._hosts = hosts
        repository = Path(__file__).parents[2]
        self.environment = [
            "HOME=/mnt/home",
            f"PATH={BIN}:/usr/sbin:/usr/bin:/sbin:/bin",
            f"PYTHONPATH={repository}:{repository}/cli",
            "RAY_AUTH_MODE=token",
            f"RAY_AUTH_TOKEN={secrets.token_hex(32)}",
            "RAY_worker_niceness=0",
            "RAY_memory_monitor_refresh_ms=0",  # a host sees the whole machine's memory
            "RAY_raylet_start_wait_time_s=120",
        ]

    def start(self) -> None:
        """Ray's head, and the hosts that join it."""
        self._ray("head", f"--head --port={_PORT} --num-cpus=0 --include-dashboard=false")
        for name in ("one", "two"):
            self._join(name)

    def aim(self, drill: Drill, process: subprocess.Popen[str]) -> Hit:
        """Cut off the host of the pool that a drill names; what Ray gave up joins again when the link is back."""
        name = _HOST_OF[drill.target]

        def mend() -> None:
            self._hosts[name].mend()
            if drill.blow == "cut off":
                self._join(name)

        return Hit(self._hosts[name].cut, mend, _CUT_S[drill.blow])

    def _join(self, name: str) -> None:
        deadline = time.monotonic() + _JOIN_S
        while self._hosts[name].ssh("true").returncode:
            assert time.monotonic() < deadline, f"{name} is not back"
            time.sleep(0.5)
        self._ray(name, f"--address={_ADDRESS} --num-cpus=2 '--resources={{\"{name}\": 16}}'")

    def _ray(self, name: str, options: str) -> None:
        host, words = self._hosts[name], " ".join(self.environment)
        host.ssh(f"env {words} ray stop --force")
        done = host.ssh(
            f"env {words} ray start --node-ip-address={host.address} --object-store-memory=200000000 {options}"
        )
        assert done.returncode == 0, done.stdout + done.stderr
