"""``bcpg-cluster monitor``: Prometheus, and Grafana where it is installed, beside a running Ray."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path

from bcpg_cluster.cluster.on_ray.metrics import provision_dashboard
from bcpg_cluster.errors import UserError
from bcpg_cluster.watch.prometheus.grafana import UID, shipped_dashboard
from bcpg_cluster.watch.prometheus.servers import (
    Server,
    check_answers,
    find_session,
    grafana_server,
    prometheus_server,
    scrape_targets,
)
from bcpg_cluster_cli.terminal import Terminal


def run_monitor(
    ray_folder: Path | None, data: Path | None, port: int, interval_s: float, *, grafana: bool, grafana_port: int
) -> None:
    """Start what was asked for and wait until a signal, or until one of the programs ends.

    Raises:
        UserError: no Ray runs here, a program is not installed, a port is taken, or a program ended by itself.
    """
    console = Terminal()
    session = find_session(ray_folder or Path(os.environ.get("RAY_TMPDIR", "/tmp")) / "ray")
    targets = scrape_targets(session)
    check_answers(targets)
    folder = data or session / "metrics" / "bcpg_cluster"
    servers = [prometheus_server(session, folder, port, interval_s)]
    provision_dashboard(session, shipped_dashboard())
    if grafana:
        servers.append(grafana_server(session, folder, grafana_port))
    console.print(f"Ray session: {session} ({len(targets)} metrics agents)", highlight=False, soft_wrap=True)
    console.print(f"Prometheus: {servers[0].url}, data in {folder}", highlight=False, soft_wrap=True)
    if grafana:
        console.print(f"Grafana: {servers[1].url}/d/{UID}", highlight=False, soft_wrap=True)
    console.print("Ctrl-C stops it", highlight=False)
    serve(servers, folder)


def serve(servers: Sequence[Server], folder: Path) -> None:
    """Run the programs until a signal comes or one of them ends. Their output goes to ``folder``.

    Raises:
        UserError: one of them ended by itself; quotes its last output.
    """
    running: list[tuple[Server, subprocess.Popen[bytes], Path]] = []
    # A signal that comes while the programs are being started must find somebody who stops them.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)
    try:
        for server in servers:
            log = folder / f"{server.name.lower()}.log"
            with log.open("wb") as output:
                process = subprocess.Popen(
                    server.command, stdout=output, stderr=output, env={**os.environ, **server.environment}
                )
            running.append((server, process, log))
        pid, status = os.waitpid(-1, 0)  # whichever ends first
        for server, process, log in running:
            if process.pid == pid:
                process.returncode = os.waitstatus_to_exitcode(status)
                raise UserError(
                    f"{server.name} ended with {process.returncode}: {_last_words(log)}",
                    rule=f"it must run until it is stopped: {' '.join(server.command)}",
                    remedy=f"see {log}",
                )
    except KeyboardInterrupt:
        pass
    finally:
        for _, process, _ in running:
            process.terminate()
        for _, process, _ in running:
            _end(process)


def _interrupt(signum: int, frame: object) -> None:
    raise KeyboardInterrupt


def _end(process: subprocess.Popen[bytes]) -> None:
    try:
        process.wait(10.0)
    except subprocess.TimeoutExpired:
        process.kill()


def _last_words(log: Path) -> str:
    lines = log.read_text(errors="replace").strip().splitlines()
    return " | ".join(lines[-3:])[-600:] or "it said nothing"
