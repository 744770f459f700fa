"""A Ray head of a test's own, beside whatever else runs on the machine."""

from __future__ import annotations

import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

BIN = Path(sys.executable).parent


@dataclass
class Head:
    """A head: its port, and what a process that may join it has in its environment."""

    process: subprocess.Popen[bytes]
    address: str
    environment: Mapping[str, str]

    def pid_of_gcs(self) -> int:
        """The head's own GCS process (the machine may hold others)."""
        listed = subprocess.run(["ps", "-ww", "-eo", "pid,args"], capture_output=True, text=True, check=True).stdout
        (found,) = [
            line for line in listed.splitlines() if "/gcs_server " in line and self.environment["RAY_TMPDIR"] in line
        ]
        return int(found.split()[0])


def start_head(folder: Path, *options: str, **variables: str) -> Head:
    """`ray start --head` with a folder, port and token of its own, and further options and environment variables."""
    with socket.create_server(("", 0)) as probe, socket.create_server(("127.0.0.1", 0)) as other:
        port, unused = probe.getsockname()[1], other.getsockname()[1]
    folder.mkdir()
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    environment |= {
        "RAY_TMPDIR": str(folder),
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "RAY_worker_niceness": "0",
        "RAY_raylet_start_wait_time_s": "120",  # a busy machine
        "HOME": str(folder),
        "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
        **variables,
    }
    command = [BIN / "ray", "start", "--head", "--block", f"--port={port}", "--num-cpus=2", '--resources={"slot": 2}']
    log = (folder / "log.txt").open("wb")
    with log:
        process = subprocess.Popen(
            # Ray wants the dashboard's port to be free, also where there is to be none.
            [*command, "--include-dashboard=false", f"--dashboard-port={unused}", *options],
            env=environment,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    deadline = time.monotonic() + 120
    while "Ray runtime started" not in (folder / "log.txt").read_text():
        assert process.poll() is None and time.monotonic() < deadline, (folder / "log.txt").read_text()
        time.sleep(0.2)
    return Head(process, f"127.0.0.1:{port}", environment)


def stop_head(head: Head) -> None:
    """End it with all its processes; those of others stay."""
    head.process.terminate()
    try:
        head.process.wait(60)
    except subprocess.TimeoutExpired:
        os.killpg(head.process.pid, signal.SIGKILL)
        head.process.wait()
