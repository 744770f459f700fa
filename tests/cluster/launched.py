"""clusters/local.yaml, launched with the real `ray up` on the hosts of ``tests.cluster.hosts``."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import yaml

from tests.cluster.hosts import Host, several_hosts

REPOSITORY = Path(__file__).parents[2]
LAUNCHER = REPOSITORY / "clusters" / "local.yaml"
RESOURCES = {
    "head": '{"trainer": 1}',
    "rollout": '{"rollout": 2}',
    "judge": '{"judge": 4}',
    "trainer": '{"trainer": 1}',
}
_ADDRESSES = {"rollout": ".11 ", "judge": ".12 ", "trainer": ".13 "}
# In the place of the set-up line that installs the project: the tests' own packages, and the project as it was copied.
_PREPARE = (
    "mkdir ~/venv; ln -s {bin} ~/venv/bin;"
    " echo 'export PYTHONPATH=$HOME/bcpg-cluster:$HOME/bcpg-cluster/cli' >> ~/.bashrc;"
    # The memory that a host sees is the whole machine's: it would kill its actors for what other programs take.
    " echo 'export RAY_memory_monitor_refresh_ms=0 RAY_agent_register_timeout_ms=120000' >> ~/.bashrc"
)


def launcher_file(folder: Path, key: Path, resources: Mapping[str, str]) -> Path:
    """The shipped file with the lines marked CHANGE changed for the test's hosts."""
    text = LAUNCHER.read_text().replace("192.0.2.", "10.77.0.")
    content = yaml.safe_load(text)
    content["auth"] = {"ssh_user": "root", "ssh_private_key": str(key)}
    setup = []
    for command in content["setup_commands"]:
        if "pip install" in command or "/shared" in command:
            continue
        if "bcpg-resources" in command:
            command = _own_resources(command, resources)
        setup.append(command)
    content["setup_commands"] = setup
    path = folder / "cluster.yaml"
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return path


def _own_resources(command: str, resources: Mapping[str, str]) -> str:
    lines = []
    for line in command.splitlines():
        for role, address in _ADDRESSES.items():
            if address in line:
                line = f"{line.partition('echo')[0]}echo '{resources[role]}' ;;"
        if line.strip().startswith("*)"):
            line = f"*) echo '{resources['head']}' ;;"
        lines.append(line)
    return "\n".join(lines)


@dataclass
class Launched:
    """The cluster, seen from the machine that launched it (the "laptop")."""

    hosts: Mapping[str, Host]
    file: Path
    environment: Mapping[str, str]
    shared: Path

    def ray(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """A `ray` command on the laptop."""
        return subprocess.run(self._command(*arguments), **self._where(), capture_output=True, text=True)  # type: ignore[call-overload]

    def ray_exec(self, command: str) -> subprocess.CompletedProcess[str]:
        """`ray exec`: a command on the head."""
        return self.ray("exec", str(self.file), command)

    def begin(self, command: str, log: Path) -> subprocess.Popen[bytes]:
        """`ray exec` that goes on in the background."""
        return self.begin_ray(log, "exec", str(self.file), command)

    def begin_ray(self, log: Path, *arguments: str) -> subprocess.Popen[bytes]:
        """A `ray` command on the laptop that goes on in the background."""
        with log.open("ab") as file:
            return subprocess.Popen(self._command(*arguments), **self._where(), stdout=file, stderr=file)  # type: ignore[call-overload]

    def _command(self, *arguments: str) -> list[str]:
        return [str(Path(sys.executable).parent / "ray"), *arguments]

    def _where(self) -> dict[str, object]:
        return {"cwd": REPOSITORY, "env": dict(self.environment), "stdin": subprocess.DEVNULL}


@contextmanager
def launched(folder: Path, **head: float) -> Iterator[Launched]:
    """Hosts, `ray up`, and at the end `ray down`, which must leave no Ray process behind.

    ``head`` is what the head offers, besides the processors.
    """
    laptop = folder / "laptop"
    (laptop / ".ray").mkdir(parents=True)
    (laptop / ".ray" / "auth_token").write_text(secrets.token_hex(32))
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "PYTHONPATH"))}
    environment |= {"HOME": str(laptop), "RAY_TMPDIR": str(laptop / "tmp"), "RAY_AUTH_MODE": "token", "TERM": "dumb"}
    prepare = _PREPARE.format(bin=Path(sys.executable).parent)
    with several_hosts(list(RESOURCES), folder / "hosts", prepare) as hosts:
        resources = {**RESOURCES, "head": json.dumps(head)}
        file = launcher_file(folder, folder / "hosts" / "key", resources)
        cluster = Launched(hosts, file, environment, folder / "hosts" / "shared")
        up = cluster.ray("up", "-y", "--no-config-cache", str(file))
        assert up.returncode == 0, up.stdout[-3000:] + up.stderr[-3000:]
        yield cluster
        down = cluster.ray("down", "-y", str(file))
        assert down.returncode == 0, down.stdout[-3000:] + down.stderr[-3000:]
        wait_until(lambda: not any(ray_processes(host) for host in hosts.values()), 120, "Ray is still running")


def ray_processes(host: Host) -> list[str]:
    """The Ray processes of a host."""
    return [
        line
        for line in host.ssh("ps -eo args").stdout.splitlines()
        if "/raylet/raylet" in line or "/gcs_server" in line
    ]


def wait_until(reached: Callable[[], bool], timeout_s: float, what: str) -> None:
    """Look twice a second until ``reached`` holds."""
    deadline = time.monotonic() + timeout_s
    while not reached():
        assert time.monotonic() < deadline, what
        time.sleep(0.5)
