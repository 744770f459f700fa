"""Prometheus and Grafana beside Ray: what is written and started, and what is said when it cannot be.

Ports are below those that Linux gives to outgoing connections (32768 to 60999), so that none is taken by chance.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from bcpg_cluster.errors import UserError
from bcpg_cluster.watch.prometheus import servers


@pytest.fixture
def listening() -> Iterator[int]:
    """A port somebody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@pytest.fixture
def ray_folder(tmp_path: Path, listening: int) -> Path:
    """What a running Ray leaves for Prometheus and Grafana."""
    session = tmp_path / "ray" / "session_1"
    (session / "metrics" / "grafana" / "dashboards").mkdir(parents=True)
    (session / "metrics" / "grafana" / "grafana.ini").write_text("[paths]\n")
    found = [{"labels": {"job": "ray"}, "targets": ["127.0.0.1:1", f"127.0.0.1:{listening}"]}]
    (session / "prom_metrics_service_discovery.json").write_text(json.dumps(found))
    (tmp_path / "ray" / "session_latest").symlink_to(session)
    return tmp_path / "ray"


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Stand-ins on the PATH, which write down how they were started and end with a code (or wait)."""

    def make(name: str, end: str = "sleep 600") -> Path:
        folder, said = tmp_path / "bin", tmp_path / f"{name}.args"
        folder.mkdir(exist_ok=True)
        path = folder / name
        path.write_text(f'#!/bin/sh\necho "$@" "$GF_SERVER_HTTP_ADDR:$GF_SERVER_HTTP_PORT" > {said}\nexec {end}\n')
        path.chmod(0o755)
        monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
        return said

    return make


def test_the_session_is_found_with_its_agents(ray_folder: Path, listening: int) -> None:
    session = servers.find_session(ray_folder)
    assert session.name == "session_1"
    assert servers.scrape_targets(session) == ["127.0.0.1:1", f"127.0.0.1:{listening}"]
    servers.check_answers(servers.scrape_targets(session))  # one of them lives


def test_no_ray(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="prom_metrics_service_discovery") as caught:
        servers.find_session(tmp_path)
    assert "--ray-folder" in caught.value.remedy


@pytest.mark.parametrize("targets", [[], ["127.0.0.1:1"]])
def test_a_ray_that_is_gone(targets: list[str]) -> None:
    with pytest.raises(UserError, match="none of Ray's metrics agents answers"):
        servers.check_answers(targets)


def test_prometheus_follows_rays_file_and_listens_on_loopback_alone(
    ray_folder: Path, tmp_path: Path, programs: Callable[..., Path]
) -> None:
    programs("prometheus")
    session = servers.find_session(ray_folder)
    server = servers.prometheus_server(session, tmp_path / "data", 15901, 2.5)
    assert "--web.listen-address=127.0.0.1:15901" in server.command
    assert f"--storage.tsdb.path={tmp_path / 'data' / 'data'}" in server.command
    written = yaml.safe_load((tmp_path / "data" / "prometheus.yml").read_text())
    assert written["global"] == {"scrape_interval": "2500ms", "scrape_timeout": "2500ms"}
    (job,) = written["scrape_configs"]
    assert job["file_sd_configs"][0]["files"] == [str(session / "prom_metrics_service_discovery.json")]


def test_grafana_takes_rays_settings_and_listens_on_loopback_alone(
    ray_folder: Path, tmp_path: Path, programs: Callable[..., Path]
) -> None:
    programs("grafana")
    session = servers.find_session(ray_folder)
    server = servers.grafana_server(session, tmp_path / "data", 15902)
    assert server.command[1] == "server" and server.command[-1] == str(session / "metrics/grafana/grafana.ini")
    assert (server.environment["GF_SERVER_HTTP_ADDR"], server.environment["GF_SERVER_HTTP_PORT"]) == (
        "127.0.0.1",
        "15902",
    )


def test_a_taken_port(listening: int) -> None:
    with pytest.raises(UserError, match=f"port {listening} of this machine is not available") as caught:
        servers.check_port(listening, "--port")
    assert "another --port" in caught.value.remedy


@pytest.mark.parametrize(("arguments", "name"), [((), "Prometheus"), (("--grafana",), "Grafana")])
def test_what_is_not_installed(
    ray_folder: Path, tmp_path: Path, bcpg: Callable[..., Any], monkeypatch: pytest.MonkeyPatch,
    programs: Callable[..., Path], arguments: tuple[str, ...], name: str,
) -> None:  # fmt: skip
    if name == "Grafana":
        programs("prometheus")
        if servers.shutil.which("grafana") or servers.shutil.which("grafana-server"):
            pytest.skip("Grafana is installed here")
    else:
        monkeypatch.setenv("PATH", str(tmp_path))
        if Path("/usr/sbin/prometheus").exists():
            pytest.skip("Prometheus is installed where it cannot be hidden")
    ended = bcpg("monitor", "--ray-folder", ray_folder, "--port", 15903, "--grafana-port", 15904, *arguments)
    assert ended.code == 2 and f"{name} is not installed" in ended.err
    assert ("apt-get install prometheus" if name == "Prometheus" else "grafana.com") in ended.err


def monitor(ray_folder: Path, *arguments: str) -> subprocess.Popen[str]:
    code = "import sys; from bcpg_cluster_cli.app import main; sys.argv[0] = 'bcpg-cluster'; main()"
    command = [sys.executable, "-c", code, "monitor", "--ray-folder", str(ray_folder), "--port", "15905", *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def test_monitor_starts_both_and_stops_both(ray_folder: Path, tmp_path: Path, programs: Callable[..., Path]) -> None:
    said = [programs("prometheus"), programs("grafana")]
    process = monitor(ray_folder, "--grafana", "--grafana-port", "15906")
    assert process.stdout is not None
    lines = [process.stdout.readline() for _ in range(4)]  # the last one says how to stop it
    while not all(path.exists() and path.read_text().endswith("\n") for path in said):
        assert process.poll() is None, lines
    process.terminate()
    assert process.wait(60) == 0
    assert "http://127.0.0.1:15905" in lines[1] and "http://127.0.0.1:15906/d/bcpgCluster" in lines[2]
    assert said[1].read_text().strip().endswith("grafana.ini 127.0.0.1:15906")
    assert (ray_folder / "session_1/metrics/grafana/dashboards/bcpg_grafana_dashboard.json").is_file()


def test_monitor_says_why_a_program_ended(ray_folder: Path, programs: Callable[..., Path]) -> None:
    programs("prometheus", "sh -c 'echo no space left on device; exit 3'")
    process = monitor(ray_folder)
    printed, _ = process.communicate(timeout=60)
    assert process.returncode == 2 and "Prometheus ended with 3: no space left on device" in printed
