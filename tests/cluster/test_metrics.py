"""A run on a real Ray, seen from outside: the agent's metrics, a real Prometheus over them, and Ray's dashboard in a browser.

The engines are fakes, since what they compute is no matter here; tests/e2e has the real ones. All of it is one Ray and one run.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from bcpg_cluster.cluster.on_ray.metrics import ray_session_folder
from bcpg_cluster.cluster.on_ray.runtime import ClusterChoice, RayRuntime
from bcpg_cluster.config.run import Config
from bcpg_cluster.run.build.assembly import build_coordinator
from bcpg_cluster.run.directory import open_run
from bcpg_cluster.run.listeners import listeners
from bcpg_cluster.run.preflight.prompts import read_all_prompts
from bcpg_cluster.stages.fakes.faults import LATENCY
from bcpg_cluster.store.manifest import ManifestState, read_manifest
from bcpg_cluster.watch.observer import SilentObserver
from bcpg_cluster.watch.prometheus.catalog import METRICS
from bcpg_cluster.watch.prometheus.grafana import dashboard
from benchmarks.measure import free_port
from tests.browser import PROGRAM, look_at
from tests.scrape import Series, listening, scrape

pytestmark = [pytest.mark.engine, pytest.mark.timeout(900)]

# What a run on fakes may have nothing to say of: lost work, steps without a verdict, how hard it pushed.
SILENT = {"bcpg_faults", "bcpg_steps_without_verdict", "bcpg_clipped_share", "bcpg_positive_mass"}
ACTORS = ["rollout/0", "rollout/1", "judge.llm/0", "prm/0", "cpu/0", "trainer/0"]


@dataclass
class Watched:
    ray_folder: Path
    url: str
    reports: dict[int, dict[str, Any]]
    state: ManifestState
    series: Series  # as exported while the run went on


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory, make_config: Callable[..., Config]) -> Iterator[Watched]:
    """A run of two rounds whose actors still live; a Ray in a folder of its own, which hands metrics on every second."""
    pools = {name.partition("/")[0]: {"num_cpus": 0.01} for name in ACTORS}
    pools["rollout"] |= {"members": 2}
    pools["judge.llm"] |= {"env": {LATENCY: "1.2"}}  # longer than from one look at the pools to the next
    judges = {"llm": {"kind": "fake", "pool": "judge.llm"}, "prm": {"kind": "fake", "pool": "prm"}}
    config = make_config(pools=pools, judges=judges)
    folder = Path(tempfile.mkdtemp(prefix="bcpg-ray-", dir="/tmp"))  # Ray's sockets need a short path
    patch = pytest.MonkeyPatch()
    patch.setenv("RAY_TMPDIR", str(folder))
    patch.setenv("RAY_metrics_report_interval_ms", "1000")
    runtime = None
    try:
        runtime = RayRuntime(ClusterChoice("local", "a test"), namespace="watched", dashboard=True)
        with open_run(tmp_path_factory.mktemp("watched") / "run", config) as manifest:
            prompts = read_all_prompts(config)
            with listeners(SilentObserver(), config, manifest, runtime) as observer:
                coordinator = build_coordinator(config, manifest, runtime, observer, lambda: False, prompts)
                with listening(folder / "ray" / "session_latest", series := Series()):
                    reports = coordinator.run(2)
                assert runtime.dashboard_url is not None
                yield Watched(
                    folder / "ray",
                    runtime.dashboard_url,
                    {r: report.plain() for r, report in reports.items()},
                    read_manifest(manifest.run_dir),
                    series,
                )
                del coordinator  # held until here: Ray ends the actors that no handle refers to any more
    finally:
        if runtime is not None:
            runtime.shutdown()
        patch.undo()
        shutil.rmtree(folder, ignore_errors=True)


def until(look: Callable[[], bool], why_not: Callable[[], object], seconds: float = 120.0) -> None:
    """Look again and again; what is looked for comes with the agent's next report."""
    deadline = time.monotonic() + seconds
    while not look():
        assert time.monotonic() < deadline, why_not()
        time.sleep(0.25)


def test_every_metric_is_exported_by_rays_agent(watched: Watched) -> None:
    expected = {metric.series for metric in METRICS if metric.name not in SILENT}
    last = watched.reports[2]
    series = watched.series

    def is_missing() -> set[str]:
        scrape(watched.ray_folder / "session_latest", series)
        is_newest = series.get("ray_bcpg_round_seconds") == pytest.approx(last["seconds"]["round"])
        return (expected - series.names()) | (set() if is_newest else {"round 2"})

    until(lambda: not is_missing(), is_missing)
    receipts = [r for shards in watched.state.shards.values() for r in shards.values()]
    for stage, table in (("generate", "rollouts"), ("verify", "outcomes"), ("judge.llm", "verdicts.llm")):
        for what in ("samples", "tokens"):
            made = sum(receipt.metrics[what] for receipt in receipts if receipt.table == table)
            assert series.get(f"ray_bcpg_{what}_total", stage=stage) == made, (stage, what)
    assert series.get("ray_bcpg_pool_members", pool="rollout", state="ready") == 2
    assert series.get("ray_bcpg_busy_share", pool="judge.llm") <= 1  # 0 again after ten idle seconds
    assert series.was_positive("ray_bcpg_busy_share", pool="judge.llm")
    assert 0 < series.get("ray_bcpg_round_busy_share", pool="judge.llm") <= 1
    assert series.get("ray_bcpg_accuracy", decoding="greedy") == pytest.approx(last["accuracy_greedy"])
    agreement = last["judges"]["agreement"]["llm+prm"]["agreement"]
    assert series.get("ray_bcpg_judge_agreement", judges="llm+prm") == pytest.approx(agreement)
    assert series.get("ray_bcpg_mined_share") == pytest.approx(last["mined_share"])
    assert series.get("ray_bcpg_push_worst_nats") == pytest.approx(last["push"]["worst_nats"])
    assert series.get("ray_bcpg_policy_version", weights="served") == 2
    assert {tags["run"] for tags, _ in series.of("ray_bcpg_round")} == {"run"}


def test_grafanas_dashboard_lies_where_ray_provisions_its_own(watched: Watched) -> None:
    session = ray_session_folder()
    assert session is not None and session.is_relative_to(watched.ray_folder.resolve())
    folder = session / "metrics" / "grafana" / "dashboards"
    assert json.loads((folder / "bcpg_grafana_dashboard.json").read_text()) == dashboard()
    assert (folder / "default_grafana_dashboard.json").is_file()  # Ray's own
    provisioning = (session / "metrics/grafana/provisioning/dashboards/default.yml").read_text()
    assert str(folder) in provisioning


def test_prometheus_finds_the_run_and_answers_the_dashboards_queries(watched: Watched, tmp_path: Path) -> None:
    """`bcpg-cluster monitor`, as a person starts it."""
    if shutil.which("prometheus") is None:
        pytest.skip("Prometheus is not installed (Debian: prometheus)")
    port = free_port()
    command = [
        str(Path(sys.executable).parent / "bcpg-cluster"), "monitor", "--ray-folder", str(watched.ray_folder),
        "--port", str(port), "--interval", "1", "--data", str(tmp_path / "data"),
    ]  # fmt: skip
    output = tmp_path / "monitor.txt"
    with output.open("w") as stream:
        monitor = subprocess.Popen(command, stdout=stream, stderr=stream)
    try:
        until(lambda: "Ctrl-C" in output.read_text() or monitor.poll() is not None, output.read_text)
        assert monitor.poll() is None, output.read_text()

        def ask(query: str) -> list[dict[str, Any]]:
            address = f"http://127.0.0.1:{port}/api/v1/query?{urllib.parse.urlencode({'query': query})}"
            try:
                with urllib.request.urlopen(address, timeout=10) as answer:
                    return list(json.load(answer)["data"]["result"])
            except (OSError, ValueError):
                assert monitor.poll() is None, output.read_text()
                return []

        # A rate needs two looks. By then gauges are still there that nobody has changed for long.
        until(lambda: bool(ask('sum by (stage) (rate(ray_bcpg_tokens_total{run="run"}[1m]))')), output.read_text)
        shown = {target["expr"] for panel in dashboard()["panels"] for target in panel.get("targets", [])}
        unanswered = set()
        for expression in shown:
            ready = re.sub(r"\$__rate_interval", "1m", re.sub(r"\$(run|SessionName)", ".*", expression))
            if not ask(ready):
                unanswered |= set(re.findall(r"ray_bcpg_\w+", expression))
        assert unanswered <= {metric.series for metric in METRICS if metric.name in SILENT}
        (accuracy,) = ask('ray_bcpg_accuracy{decoding="sampled"}')
        assert float(accuracy["value"][1]) == pytest.approx(watched.reports[2]["accuracy"])
        own = accuracy["metric"]["NodeAddress"]
        if not own.startswith("127."):
            with pytest.raises(OSError):  # it listens on the loopback interface alone
                socket.create_connection((own, port), timeout=5).close()
    finally:
        monitor.send_signal(signal.SIGINT)
        code = monitor.wait(60)
    assert code == 0, output.read_text()


def test_the_dashboard_shows_the_actors_by_their_roles(watched: Watched, tmp_path: Path) -> None:
    """In a browser, as a person sees it; the picture is kept where BCPG_SCREENSHOTS says."""
    if PROGRAM is None:
        pytest.skip("no browser is installed (Debian: chromium)")
    token = Path(os.environ.get("RAY_AUTH_TOKEN_PATH", Path.home() / ".ray" / "auth_token"))
    cookies = {"ray-authentication-token": token.read_text().strip()} if token.is_file() else {}
    words = [*ACTORS, *["ALIVE"] * len(ACTORS)]  # the dashboard hears of a state later than of an actor
    page = look_at(f"{watched.url}/#/actors", words, cookies=cookies, deadline_s=300.0)
    folder = Path(os.environ.get("BCPG_SCREENSHOTS", tmp_path))
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "actors.png").write_bytes(page.png)
    assert all(name in page.text for name in ACTORS)
    assert page.text.count("ALIVE") >= len(ACTORS)
    assert page.png.startswith(b"\x89PNG") and len(page.png) > 30_000  # an empty page has about a tenth of that
