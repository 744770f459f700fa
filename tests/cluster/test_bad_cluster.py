"""Clusters that cannot be used, and a cluster that is lost: clear errors within seconds, and a run that goes on elsewhere."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import yaml

from bcpg_cluster.cluster.on_ray.connection import check_address
from bcpg_cluster.config.run import Config
from bcpg_cluster.errors import UserError
from bcpg_cluster.stages.fakes.faults import LATENCY
from bcpg_cluster.store.manifest import read_manifest
from tests.listening import descendants
from tests.ray_head import BIN, Head, start_head, stop_head

pytestmark = pytest.mark.engine

JOIN = """
import sys, ray
{patch}
from bcpg_cluster.cluster.on_ray.runtime import ClusterChoice, RayRuntime
from bcpg_cluster.errors import UserError
try:
    runtime = RayRuntime(ClusterChoice(sys.argv[1], "given by --address"), namespace="join")
except UserError as error:
    sys.exit(f"UserError: {{error}}")
print("slots", runtime.cluster_resources()["slot"])
runtime.shutdown()
"""


def join(head: Head, patch: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
    """A driver that joins it; ``patch`` is run first, and variables of ``environment`` replace the right ones."""
    command = [sys.executable, "-c", JOIN.format(patch=patch), head.address]
    return subprocess.run(command, env={**head.environment, **environment}, capture_output=True, text=True)


@pytest.fixture(scope="module")
def short_tmp() -> Iterator[Path]:
    """Ray's sockets lie below it, and their paths may not be longer than 107 characters."""
    import tempfile

    with tempfile.TemporaryDirectory(prefix="bcpg", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


@pytest.fixture(scope="module")
def head(short_tmp: Path) -> Iterator[Head]:
    made = start_head(short_tmp / "h")
    yield made
    stop_head(made)


def test_the_right_token_joins(head: Head):
    joined = join(head)
    assert joined.returncode == 0, joined.stderr
    assert "slots 2.0" in joined.stdout


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        ({"RAY_AUTH_TOKEN": "0" * 64}, "it refused this process's token"),
        ({"RAY_AUTH_MODE": "disabled"}, "this process sent none"),
        ({"RAY_AUTH_TOKEN": ""}, "this process has none"),
    ],
)
def test_a_wrong_token_is_refused_with_the_remedy(head: Head, environment: dict[str, str], words: str):
    joined = join(head, **environment)
    assert joined.returncode == 1
    assert "UserError: the Ray cluster at 127.0.0.1" in joined.stderr and words in joined.stderr
    assert "copy the head's ~/.ray/auth_token" in joined.stderr
    assert "gcs_client" not in joined.stderr, "Ray's own attempts, one a second for 20 s, were not spared"


def test_a_driver_of_another_version_is_refused_with_the_remedy(head: Head):
    joined = join(head, 'ray.__version__ = "2.59.0"')
    assert joined.returncode == 1
    assert "runs another version" in joined.stderr and "Ray: 2.59.0" in joined.stderr
    assert "run the command with the cluster's own environment" in joined.stderr


@pytest.mark.parametrize(
    ("patch", "words"),
    [
        ('import ray; ray.__version__ = "2.59.0"', "Ray: 2.59.0"),
        (
            "import ray._private.utils as u; ray_version = u.compute_version_info()[0];"
            ' u.compute_version_info = lambda: (ray_version, "3.12.1")',
            "Python: 3.12.1",
        ),
    ],
)
def test_ray_refuses_a_node_of_another_version(head: Head, patch: str, words: str):
    """Nothing of ours: the documents say so, and a newer Ray might not."""
    start = f"{patch}\nimport sys\nfrom ray.scripts.scripts import main\nsys.argv[0] = 'ray'\nmain()"
    command = [sys.executable, "-c", start, "start", f"--address={head.address}"]
    started = subprocess.run(command, env=dict(head.environment), capture_output=True, text=True)
    assert started.returncode != 0
    assert "Version mismatch" in started.stderr and words in started.stderr


def test_nothing_listens(monkeypatch: pytest.MonkeyPatch):
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    with pytest.raises(UserError, match=f"no Ray cluster answers at 127.0.0.1:{port} .given by RAY_ADDRESS.") as caught:
        check_address(f"127.0.0.1:{port}", "given by RAY_ADDRESS")
    assert "unset RAY_ADDRESS" in caught.value.remedy


@pytest.mark.parametrize(
    "address", ["nonsense", "http://127.0.0.1:8265", "ray://127.0.0.1:10001", "host:", ":6379x", "host:99999"]
)
def test_what_is_no_address(address: str):
    with pytest.raises(UserError, match="is not a cluster's address") as caught:
        check_address(address, "given by --address")
    assert "ray job submit" in caught.value.remedy


@pytest.mark.slow  # the command has 30 s of patience with a silent head
def test_a_lost_head_ends_the_command_and_the_run_goes_on_elsewhere(
    short_tmp: Path, fakes_content: Callable[[], dict[str, Any]], tmp_path: Path
):
    content = fakes_content()
    content["pools"] = {name: {"num_cpus": 0.01} for name in ("rollout", "cpu", "trainer")}
    config, run_dir = tmp_path / "fakes.yaml", tmp_path / "run"
    config.write_text(yaml.safe_dump(content))
    lost = start_head(short_tmp / "l")
    try:
        command = [BIN / "bcpg-cluster", "iterate", "--config", config, "--run-dir", run_dir, "--address"]
        environment = {**os.environ, **lost.environment}
        log = tmp_path / "log.txt"
        with log.open("wb") as file:
            process = subprocess.Popen(
                [*command, lost.address, "--rounds", "1000"], env=environment, stdout=file, stderr=file
            )
        try:
            deadline = time.monotonic() + 240
            while 1 not in read_manifest(run_dir).reports:
                assert process.poll() is None and time.monotonic() < deadline, log.read_text()[-3000:]
                time.sleep(0.1)
            os.kill(lost.pid_of_gcs(), signal.SIGKILL)
            assert process.wait(150) == 1, log.read_text()[-3000:]
        finally:
            process.kill()
        words = " ".join(log.read_text().split())
        assert "ClusterLostError: the Ray cluster is lost" in words, words[-3000:]
        assert "run the same command again to resume" in words
    finally:
        stop_head(lost)
    kept = max(read_manifest(run_dir).reports)
    done = subprocess.run(
        [*command, "local", "--rounds", str(kept + 1)], env=dict(os.environ), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    state = read_manifest(run_dir)
    assert set(state.reports) == set(range(kept + 2))


@pytest.mark.slow  # the command has 30 s of patience with a silent node
@pytest.mark.parametrize("signal_", [signal.SIGKILL, signal.SIGSTOP], ids=lambda sent: sent.name)
def test_a_lost_raylet_of_a_local_ray_ends_the_command_and_the_run_resumes(
    signal_: signal.Signals,
    make_config: Callable[..., Config],
    run_rounds: Callable[..., Any],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
):
    pools = {"num_cpus": 0.01, "env": {LATENCY: "0.2"}}
    config = make_config(pools=dict.fromkeys(("rollout", "cpu", "trainer"), pools))
    config_file, run_dir, log = tmp_path / "fakes.yaml", tmp_path / "run", tmp_path / "log.txt"
    config_file.write_text(yaml.safe_dump(config.model_dump(mode="json")))
    command = [BIN / "bcpg-cluster", "iterate", "--config", config_file, "--run-dir", run_dir, "--address", "local"]
    with log.open("wb") as file:
        process = subprocess.Popen([*command, "--rounds", "1000"], stdout=file, stderr=file)
    raylet = None
    try:
        deadline = time.monotonic() + 240
        while 1 not in read_manifest(run_dir).reports:
            assert process.poll() is None and time.monotonic() < deadline, log.read_text()[-3000:]
            time.sleep(0.1)
        (raylet,) = descendants(process.pid, "/raylet/raylet ")
        os.kill(raylet, signal_)
        struck = time.monotonic()
        code = process.wait(150)
        seconds = time.monotonic() - struck
    finally:
        process.kill()
        if raylet is not None:
            with suppress(ProcessLookupError):
                os.kill(raylet, signal.SIGKILL)
    words = " ".join(log.read_text().split())
    assert code == 1, words[-3000:]
    assert "ClusterLostError: the Ray cluster is lost: the raylet of this command's own node at" in words, words[-3000:]
    assert "run the same command again to resume" in words
    assert "Traceback" not in words and "Fatal" not in words
    rounds = max(read_manifest(run_dir).reports) + 1
    done = subprocess.run([*command, "--rounds", str(rounds)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    alone = run_rounds(tmp_path / "alone", config, rounds)
    reports = read_manifest(run_dir).reports
    assert set(reports) == set(alone.reports)
    for round_, report in alone.reports.items():
        for key in ("accuracy", "accuracy_greedy", "samples", "mined_share", "per_problem", "judges"):
            assert reports[round_].plain().get(key) == report.get(key)
    with capsys.disabled():
        print(f"\n  {signal_.name} of the raylet: the error after {seconds:.1f} s", end="")
