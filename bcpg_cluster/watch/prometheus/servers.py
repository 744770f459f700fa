"""Prometheus and Grafana beside a running Ray: their configuration and command lines, and what is wrong when they cannot start.

Ray writes a service-discovery file into its session's folder, with the metrics agent of every node, and keeps it up to date
as nodes come and go; Prometheus follows that file. Both programs listen on the loopback interface alone.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from bcpg_cluster.cluster.host_port import parse_host_port
from bcpg_cluster.errors import UserError

DISCOVERY_FILE = "prom_metrics_service_discovery.json"
LOOPBACK = "127.0.0.1"
_GRAFANA_HOME = Path("/usr/share/grafana")


@dataclass(frozen=True, slots=True)
class Server:
    """A program to run: its command line and what it needs in its environment."""

    name: str
    command: tuple[str, ...]
    url: str
    environment: Mapping[str, str]


def find_session(ray_folder: Path) -> Path:
    """The newest Ray session below Ray's folder on this machine.

    Raises:
        UserError: there is none, or it exports no metrics.
    """
    session = ray_folder / "session_latest"
    if not (session / DISCOVERY_FILE).is_file():
        raise UserError(
            f"{session} has no {DISCOVERY_FILE}",
            rule="metrics are found through the file that the head node of a Ray writes while its dashboard runs",
            remedy="start it on the head node while Ray runs there, or name Ray's folder with --ray-folder (ray start --temp-dir)",
        )
    return session.resolve()


def scrape_targets(session: Path) -> list[str]:
    """The ``host:port`` of every metrics agent the session knows now."""
    groups = json.loads((session / DISCOVERY_FILE).read_text() or "[]")
    return [target for group in groups for target in group["targets"]]


def check_answers(targets: Sequence[str], timeout_s: float = 2.0) -> None:
    """Check that the Ray behind the targets is alive (a session's folder stays when its Ray is gone).

    Raises:
        UserError: none of them can be reached.
    """
    for target in targets:
        try:
            with socket.create_connection(parse_host_port(target), timeout=timeout_s):
                return
        except (OSError, ValueError):
            continue
    raise UserError(
        f"none of Ray's metrics agents answers ({', '.join(targets) or 'it lists none'})",
        rule="the newest Ray session must be running, and its nodes reachable from here",
        remedy="start Ray (or the run) first; see `ray status`",
    )


def prometheus_config(session: Path, interval_s: float) -> str:
    """Prometheus' configuration: one job, found through Ray's file."""
    every = f"{round(interval_s * 1000)}ms"
    found = {"files": [str(session / DISCOVERY_FILE)], "refresh_interval": "10s"}
    content = {
        "global": {"scrape_interval": every, "scrape_timeout": every},
        "scrape_configs": [{"job_name": "ray", "file_sd_configs": [found]}],
    }
    return yaml.safe_dump(content, sort_keys=False)


def prometheus_server(session: Path, folder: Path, port: int, interval_s: float) -> Server:
    """Write the configuration into ``folder`` (where the data go too); how to start it.

    Raises:
        UserError: Prometheus is not installed, or the port is taken.
    """
    program = _find(
        ("prometheus",),
        "Prometheus",
        "apt-get install prometheus (where its package starts a service of its own on port 9090: "
        "systemctl disable --now prometheus), or put the program of a release of prometheus.io on the PATH",
    )
    check_port(port, "--port")
    folder.mkdir(parents=True, exist_ok=True)
    config = folder / "prometheus.yml"
    config.write_text(prometheus_config(session, interval_s))
    address = f"{LOOPBACK}:{port}"
    command = (
        program,
        f"--config.file={config}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address={address}",
        "--log.level=warn",
    )
    return Server("Prometheus", command, f"http://{address}", {})


def grafana_server(session: Path, folder: Path, port: int) -> Server:
    """How to start Grafana with what Ray provisions for it.

    Raises:
        UserError: Grafana is not installed, the port is taken, or the session has nothing for it.
    """
    program = _find(
        ("grafana", "grafana-server"),
        "Grafana",
        "install it from grafana.com's own package repository (Debian has none)",
    )
    settings = session / "metrics" / "grafana" / "grafana.ini"
    if not settings.is_file():
        raise UserError(
            f"{settings} does not exist",
            rule="Ray's dashboard writes Grafana's settings on the head node",
            remedy="start Ray with its dashboard, and this on the head node",
        )
    check_port(port, "--grafana-port")
    folder.mkdir(parents=True, exist_ok=True)
    environment = {
        "GF_SERVER_HTTP_ADDR": LOOPBACK,
        "GF_SERVER_HTTP_PORT": str(port),
        "GF_PATHS_DATA": str(folder / "grafana"),
        "GF_PATHS_LOGS": str(folder / "grafana" / "log"),
    }
    words = [program, *(["server"] if Path(program).name == "grafana" else [])]
    home = ["--homepath", str(_GRAFANA_HOME)] if _GRAFANA_HOME.is_dir() else []
    command = (*words, *home, "--config", str(settings))
    return Server("Grafana", command, f"http://{LOOPBACK}:{port}", environment)


def check_port(port: int, option: str) -> None:
    """Raises :class:`UserError` when something listens there already."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(
            socket.SOL_SOCKET, socket.SO_REUSEADDR, 1
        )  # as servers do: a closed one's last packets are no matter
        try:
            probe.bind((LOOPBACK, port))
        except OSError as error:
            raise UserError(
                f"port {port} of this machine is not available: {error.strerror}",
                rule=f"{option} is a free port",
                remedy=f"give another {option}, or stop what listens there (ss -ltnp)",
            ) from None


def _find(programs: Sequence[str], name: str, remedy: str) -> str:
    for program in programs:
        path = shutil.which(program, path=os.environ.get("PATH", "") + os.pathsep + "/usr/sbin")
        if path is not None:
            return path
    raise UserError(f"{name} is not installed", rule=f"`{programs[0]}` must be on the PATH", remedy=remedy)
