"""A run on a Ray of this machine's own listens on loopback alone: no other machine reaches any of its processes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.listening import beyond_loopback, listening, with_descendants

pytestmark = [pytest.mark.engine, pytest.mark.timeout(300)]

_COMMAND = "from bcpg_cluster_cli.app import main; main()"


def test_a_run_of_fakes_listens_on_loopback_alone(config_file: Path, tmp_path: Path) -> None:
    """All its life long: sockets that are open for a while, such as those of a push, count too."""
    arguments = ["iterate", "--config", str(config_file), "--address", "local", "--rounds", "2"]
    with (tmp_path / "said").open("wb") as said:
        run = subprocess.Popen(
            [sys.executable, "-c", _COMMAND, *arguments, "--run-dir", str(tmp_path / "run")], stdout=said, stderr=said
        )
        found = set[tuple[str, str]]()
        try:
            while run.poll() is None:
                found |= listening(*with_descendants(run.pid))
        finally:
            run.kill()
    assert run.wait() == 0, (tmp_path / "said").read_text()[-2000:]
    programs = {program for program, _ in found}
    assert {"gcs_server", "raylet", "ray::DashboardAgent", "ray::trainer"} <= programs, found
    assert beyond_loopback(found) == []


def test_what_other_machines_reach_is_seen() -> None:
    """The measure itself: an open socket is told from a closed one."""
    code = "import socket; s = socket.create_server(('{}', 0)); print('open', flush=True); input()"
    found = {}
    for host in ("0.0.0.0", "127.0.0.1"):
        process = subprocess.Popen(
            [sys.executable, "-c", code.format(host)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        assert process.stdout.readline() == "open\n"
        found[host] = [address for _, address in beyond_loopback(listening(process.pid))]
        process.communicate("\n")
    assert found == {"0.0.0.0": ["0.0.0.0"], "127.0.0.1": []}
