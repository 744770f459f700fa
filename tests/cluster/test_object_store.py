"""Runs in a bucket: the main job against a real S3 API (moto's server, HTTP on loopback), on threads, in processes of their own and
on Ray's actors; killed, torn and late. Needs the extra ``dev`` (s3fs, moto)."""

from __future__ import annotations

import importlib.util
import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bcpg_cluster.cluster.on_ray.runtime import ClusterChoice, RayRuntime
from bcpg_cluster.config.run import Config
from bcpg_cluster.errors import RunDirectoryError, StoreError
from bcpg_cluster.records import Receipt
from bcpg_cluster.run.build.assembly import build_coordinator
from bcpg_cluster.run.directory import check_run_directory, open_run
from bcpg_cluster.run.preflight.prompts import read_all_prompts
from bcpg_cluster.run.snapshots import drop_torn_snapshots
from bcpg_cluster.store.fetched import CACHE_VARIABLE, local_copy
from bcpg_cluster.store.journal import StoredJournal
from bcpg_cluster.store.layout import SEGMENTS, snapshot_path
from bcpg_cluster.store.manifest import Manifest, read_manifest
from bcpg_cluster.store.path import StoredPath, run_path
from bcpg_cluster.store.reports import RoundReport
from bcpg_cluster.store.shards import read_shard, read_table, write_shard
from bcpg_cluster.watch.observer import SilentObserver
from tests.reports import what_counts

pytest.importorskip("s3fs", reason="s3fs is not installed (extra dev or s3)")
if any(importlib.util.find_spec(name) is None for name in ("moto", "flask", "flask_cors")):
    pytest.skip("moto's server is not installed (extra dev)", allow_module_level=True)

COMMAND = str(Path(sys.executable).with_name("bcpg-cluster"))


@pytest.fixture(scope="module")
def bucket(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a bucket on a server of its own, reached by the environment alone, as on a real cluster."""
    import s3fs

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        host, port = free.getsockname()
    # A process of its own: Flask's globals, once imported, raise when vLLM looks through all modules of a process.
    server = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", host, "-p", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 60
    while True:
        try:
            socket.create_connection((host, port), timeout=1).close()
            break
        except OSError:
            assert server.poll() is None and time.monotonic() < deadline, "moto's server does not start"
            time.sleep(0.1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        patch.setenv("AWS_ACCESS_KEY_ID", "test")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "test")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        patch.setenv(CACHE_VARIABLE, str(tmp_path_factory.mktemp("cache")))
        s3fs.S3FileSystem().mkdir("runs")
        try:
            yield "s3://runs"
        finally:
            server.terminate()
            server.wait(30)


@pytest.fixture
def run_dir(bucket: str, request: pytest.FixtureRequest) -> StoredPath:
    place = run_path(f"{bucket}/{request.node.name}/run")
    assert isinstance(place, StoredPath)
    return place


def plain(reports: dict[int, RoundReport]) -> dict[int, dict[str, Any]]:
    return {round_: report.plain() for round_, report in reports.items()}


def same(reports: dict[int, dict[str, Any]], finished_run: Any, rounds: int) -> None:
    for round_ in range(rounds + 1):
        assert what_counts(reports[round_]) == what_counts(finished_run.reports[round_])


def test_the_main_job_in_a_bucket_and_every_command_on_it(
    run_dir: StoredPath,
    run_rounds: Callable[..., Any],
    make_config: Callable[..., Config],
    finished_run: Any,
    bcpg: Callable[..., Any],
    tmp_path: Path,
):
    same(run_rounds(run_dir, make_config(), 2).reports, finished_run, 2)
    state = read_manifest(run_dir)
    for table in ("rollouts", "weighted"):
        rows = read_table(run_dir, state.receipts(1, table))
        assert rows == read_table(finished_run.directory, read_manifest(finished_run.directory).receipts(1, table))
    assert not Path("s3:").exists()  # nobody took the address for a path
    status = bcpg("status", "--run-dir", run_dir, "--json")
    assert status.code == 0, status.err
    facts = json.loads(status.out)
    assert (facts["run_dir"], facts["is_running"], facts["policy_version"]) == (str(run_dir), False, 2)
    for command in (
        ("inspect", "--round", 1),
        ("disagreements", "--round", 1),
        ("export", "steps", "--out", tmp_path / "steps"),
        ("calibrate", "prm"),
    ):
        ended = bcpg(*command, "--run-dir", run_dir)
        assert ended.code in (0, 2), ended.err  # fakes' judges give labels, which calibrate refuses
        assert (ended.code == 0) == (command[0] != "calibrate"), ended.err
    again = bcpg("stage", "weigh", "--round", 2, "--run-dir", run_dir, "--inline", "--discard-later")
    assert again.code == 0, again.err
    same(plain(read_manifest(run_dir).reports), finished_run, 2)


def test_bad_places_are_said_at_once(run_dir: StoredPath, bucket: str, config_file: Path, bcpg: Callable[..., Any]):
    common = ("iterate", "-c", config_file, "--inline", "--rounds", 1, "--run-dir")
    ended = bcpg(*common, "s3://not-there/run")
    assert ended.code == 2
    assert "The specified bucket does not exist" in ended.err
    ended = bcpg(*common, f"{bucket}/a", "--set", "storage.options={nonsense: 1}")
    assert ended.code == 2
    assert "nonsense" in ended.err
    ended = bcpg("status", "--run-dir", f"{bucket}/nothing/here")
    assert ended.code == 2
    assert "is not a run" in ended.err
    (run_dir / "notes.txt").write(b"mine")
    ended = bcpg(*common, run_dir)
    assert ended.code == 2
    assert "is not a run: it has no usable manifest and holds ['notes.txt']" in ended.err
    ended = bcpg("compare", "-c", config_file, "--inline", "--validation-prompts", 6, "--run-dir", f"{bucket}/compare")
    assert ended.code == 2
    assert "a comparison cannot live at s3://" in ended.err


def test_no_credentials_are_said_at_once(
    run_dir: StoredPath, make_config: Callable[..., Config], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    import s3fs

    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    s3fs.S3FileSystem.clear_instance_cache()  # a connection that has its keys would go on
    try:
        with pytest.raises(RunDirectoryError, match="Unable to locate credentials"):
            check_run_directory(run_dir, make_config())
    finally:
        s3fs.S3FileSystem.clear_instance_cache()


def num_events(run_dir: StoredPath) -> int:
    return sum(content.count(b"\n") for content in segments(run_dir).values())


def segments(run_dir: StoredPath) -> dict[str, bytes]:
    names = [path.name for path in (run_dir / SEGMENTS).iterdir()]
    return dict(zip(names, (run_dir / SEGMENTS).read_children(names), strict=True))


def test_killed_and_gone_on(run_dir: StoredPath, config_file: Path, finished_run: Any):
    """kill -9 of the whole process, again and again; the next one takes the run at once, since the last is seen to be gone."""
    rng = random.Random(3)
    command = [COMMAND, "iterate", "-c", str(config_file), "--inline", "--run-dir", str(run_dir), "--rounds", "1"]
    accepted: dict[tuple[int, str, int], Receipt] = {}
    for kill in range(2):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        try:
            enough = num_events(run_dir) + rng.choice([3, 9, 15])
            deadline = time.monotonic() + 120
            while num_events(run_dir) < enough and process.poll() is None:
                assert time.monotonic() < deadline
                time.sleep(0.05)  # every look is some requests to the server that the run needs too
        finally:
            process.send_signal(signal.SIGKILL)
            _, told = process.communicate(timeout=60)
        assert process.returncode == -signal.SIGKILL, (kill, told)
        state = read_manifest(run_dir)  # valid at every moment
        now = {(*key, shard): receipt for key, shards in state.shards.items() for shard, receipt in shards.items()}
        assert accepted.items() <= now.items()  # what counted once counts still
        accepted = now
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    state = read_manifest(run_dir)
    same(plain(state.reports), finished_run, 1)
    assert len({name[:6] for name in segments(run_dir)}) == 3  # epochs: one a process
    for key, receipt in accepted.items():
        assert state.shards[key[:2]][key[2]] == receipt
    for shards in state.shards.values():
        for receipt in shards.values():
            read_shard(run_dir, receipt)  # every shard that counts is whole


def shard_of(run_dir: StoredPath, attempt: str, answer: str) -> Receipt:
    return write_shard(
        run_dir,
        table="prompts",
        round_=1,
        shard=0,
        attempt=attempt,
        rows=[{"prompt_id": "a", "question": "q", "answer": answer}],
        seconds=0.0,
        metrics={},
    )


def test_a_late_writer_changes_nothing(run_dir: StoredPath):
    with Manifest(run_dir) as manifest:
        first = shard_of(run_dir, "aaaa", "1")
        assert manifest.accept(first)
        late = shard_of(run_dir, "bbbb", "2")
        assert not manifest.accept(late)
    with Manifest(run_dir) as manifest:
        assert not manifest.accept(late)
        assert manifest.state.receipts(1, "prompts") == [first]
    assert [row["answer"] for row in read_table(run_dir, read_manifest(run_dir).receipts(1, "prompts"))] == ["1"]


def test_torn_uploads_do_not_count(run_dir: StoredPath, tmp_path: Path):
    """A large object that was sent in part is no object; a snapshot without its list of files is no snapshot."""
    import s3fs

    fs = s3fs.S3FileSystem()
    target = run_dir / snapshot_path(1, "torn") / "model.safetensors"
    key = str(target).removeprefix("s3://")
    torn = fs.open(key, "wb", block_size=5 * 2**20)
    torn.write(b"x" * (6 * 2**20))  # past the first part; the process that wrote it dies here
    assert not target.exists()
    torn.discard()
    torn.closed = True
    (run_dir / snapshot_path(1, "torn") / "config.json").write(b"{}")
    with pytest.raises(StoreError, match="not whole"):
        local_copy(run_dir / snapshot_path(1, "torn"))
    with Manifest(run_dir) as manifest:
        drop_torn_snapshots(run_dir, manifest)
    assert not (run_dir / "snapshots").exists()


def test_of_many_coordinators_one_gets_the_run(run_dir: StoredPath):
    """S3's own "only if there is none" decides."""
    got: list[StoredJournal] = []
    refused: list[str] = []
    barrier = threading.Barrier(6)

    def take() -> None:
        barrier.wait()
        try:
            got.append(StoredJournal(run_dir, beat=False))
        except RunDirectoryError as error:
            refused.append(error.problem)

    threads = [threading.Thread(target=take) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(got), len(refused)) == (1, 5)
    assert all(f"in use by process {os.getpid()} on" in problem for problem in refused)
    got[0].close()
    Manifest(run_dir).close()


@pytest.mark.engine
def test_on_rays_actors(run_dir: StoredPath, bucket: str, make_config: Callable[..., Config], finished_run: Any):
    """Members in processes of their own read and write the bucket; the weights travel through it as well."""
    pools = {name: {"num_cpus": 0.01} for name in ("rollout", "cpu", "trainer")} | {
        "rollout": {"num_cpus": 0.01, "members": 2}
    }
    config = make_config(pools=pools, push={"backend": "disk"})
    runtime = RayRuntime(ClusterChoice("local", "a test"), namespace="bcpg-bucket", local_resources={}, dashboard=False)
    try:
        with open_run(run_dir, config) as manifest:
            prompts = read_all_prompts(config)
            reports = build_coordinator(config, manifest, runtime, SilentObserver(), lambda: False, prompts).run(1)
    finally:
        runtime.shutdown()
    for key in ("accuracy", "accuracy_greedy", "samples", "mined_share", "per_problem"):
        assert plain(reports)[1][key] == finished_run.reports[1][key]
    assert (reports[1].push.method, reports[1].push.canaries) == ("disk", "passed")
    with open_run(run_dir, config) as manifest:  # and it is given back
        assert manifest.state.snapshots[1].path.startswith("snapshots/v0001-")
