"""Every tracker through its own process, with its real package, offline: what was logged is read back from what it wrote."""

from __future__ import annotations

import json
import sqlite3
import struct
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from bcpg_cluster.config.run import Config
from bcpg_cluster.config.tracking import TRACKERS
from bcpg_cluster.run.directory import open_run
from bcpg_cluster.run.training import steps_path
from bcpg_cluster.store.manifest import read_manifest
from bcpg_cluster.store.reports import RoundReport
from bcpg_cluster.watch.observer import RoundFinished
from bcpg_cluster.watch.tracking.feed import Feed
from bcpg_cluster.watch.tracking.observer import TrackingObserver, tracking
from bcpg_cluster.watch.tracking.scalars import round_scalars
from bcpg_cluster.watch.tracking.tracker import TrackedRun

pytestmark = pytest.mark.timeout(600)

Values = dict[str, dict[int, float]]  # by name and step


@dataclass
class Tracked:
    folder: Path
    name: str
    reports: dict[int, dict[str, Any]]
    num_steps: dict[int, int]
    notes: list[str]


@pytest.fixture(scope="module")
def tracked(
    tmp_path_factory: pytest.TempPathFactory, run_rounds: Callable[..., Any], make_config: Callable[..., Config]
) -> Tracked:
    """Two rounds on fakes, told to all trackers at once; the second by another start of the run, as after a stop."""
    directory = tmp_path_factory.mktemp("tracked") / "a run"
    config = make_config(tracking={kind: {} for kind in TRACKERS}, train={"batch_sequences": 16, "epochs": 2})
    notes: list[str] = []
    open_run(directory, config).close()
    for rounds in (1, 2):
        with tracking(config, directory, read_manifest(directory), notes.append) as observer:
            assert observer is not None
            done = run_rounds(directory, config, rounds, observer)
    num_steps = {r: len((directory / steps_path(r)).read_text().splitlines()) for r in (1, 2)}
    assert min(num_steps.values()) > 1
    return Tracked(directory.parent / "tracking", directory.name, done.reports, num_steps, notes)


def from_tensorboard(tracked: Tracked) -> Values:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tracked.folder / "tensorboard" / tracked.name))
    events.Reload()
    return {tag: {event.step: event.value for event in events.Scalars(tag)} for tag in events.Tags()["scalars"]}


def from_trackio(tracked: Tracked) -> Values:
    found: Values = {}
    with sqlite3.connect(tracked.folder / "trackio" / "fakes.db") as database:
        assert database.execute("select count(distinct run_id) from metrics").fetchone() == (1,)  # it went on
        for step, row in database.execute("select step, metrics from metrics where run_name = ?", (tracked.name,)):
            for name, value in json.loads(row).items():
                found.setdefault(name, {})[step] = value
    return found


def from_mlflow(tracked: Tracked) -> Values:
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{tracked.folder / 'mlflow' / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("fakes")
    (run,) = client.search_runs([experiment.experiment_id])  # one: it went on
    assert run.info.run_name == tracked.name and run.info.status == "FINISHED"
    assert run.data.params["weigh.beta"] == "0.5"
    return {
        name: {metric.step: metric.value for metric in client.get_metric_history(run.info.run_id, name)}
        for name in run.data.metrics
    }


def from_wandb(tracked: Tracked) -> Values:
    found: Values = {}
    for record in wandb_run_records(tracked.folder):
        if record.WhichOneof("record_type") == "history":
            row = {item.key or ".".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}
            step = row.pop("train/step", None) or row.pop("round/number", 0)
            for name, value in row.items():
                if not name.startswith("_"):
                    found.setdefault(name, {})[int(step)] = value
    return found


def wandb_run_records(folder: Path) -> Iterator[Any]:
    from wandb.proto.wandb_internal_pb2 import Record

    for path in (folder / "wandb").glob("wandb/offline-run-*/*.wandb"):
        yield from map(Record.FromString, wandb_records(path.read_bytes()))


def wandb_records(data: bytes) -> Iterator[bytes]:
    """The records of an offline file: LevelDB's log format (blocks of 32 KiB, pieces with a head of 7 bytes) after 7 bytes."""
    assert data[:4] == b":W&B"
    at, parts = 7, b""
    while at + 7 <= len(data):
        if 32768 - at % 32768 < 7:
            at += 32768 - at % 32768
            continue
        length, kind = struct.unpack("<HB", data[at + 4 : at + 7])
        parts += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or the last piece
            yield parts
            parts = b""


READERS = {
    "tensorboard": from_tensorboard,
    "trackio": from_trackio,
    "wandb": from_wandb,
    "mlflow": from_mlflow,
}


@pytest.mark.parametrize("kind", TRACKERS)
def test_what_was_logged_is_there(tracked: Tracked, kind: str) -> None:
    pytest.importorskip(kind)
    found = READERS[kind](tracked)
    for round_, report in tracked.reports.items():
        for name, value in round_scalars(RoundReport.read(report)).items():
            name = name.replace("+", "_") if kind == "mlflow" else name  # MLflow's rule for names
            assert found[name][round_] == pytest.approx(value, rel=1e-6), name
    assert {0, 1, 2} == found["round/accuracy"].keys()
    assert {1, 2} == found["round/mined_share"].keys()  # nothing is known of round 0: left out, not 0
    assert found["round/faults"] == {0: 0.0, 1: 0.0, 2: 0.0}
    assert found["round/store_bytes"][1] > 0
    assert set(range(1, sum(tracked.num_steps.values()) + 1)) == found["train/loss"].keys()


def test_it_is_said_where_to_look(tracked: Tracked) -> None:
    said = [note for note in tracked.notes if note.partition(":")[0] in TRACKERS]
    assert len(said) == len(tracked.notes) == 2 * len(TRACKERS)
    assert f"tensorboard: tensorboard --logdir {tracked.folder}/tensorboard" in tracked.notes


def page_in_tensorboard(folder: Path, run: str, project: str) -> set[str]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder / "tensorboard" / run))
    events.Reload()
    assert events.PluginTagToContent("text").keys() == {"run/page"}  # shown under Text
    return {event.tensor_proto.string_val[0].decode() for event in events.Tensors("run/page")}


def page_in_trackio(folder: Path, run: str, project: str) -> set[str]:
    with sqlite3.connect(folder / "trackio" / f"{project}.db") as database:
        rows = [
            json.loads(row) for (row,) in database.execute("select metrics from metrics where run_name = ?", (run,))
        ]
    return {row["page"]["_value"] for row in rows if "page" in row}


def page_in_mlflow(folder: Path, run: str, project: str) -> set[str]:
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{folder / 'mlflow' / 'mlflow.db'}")
    (found,) = client.search_runs([client.get_experiment_by_name(project).experiment_id])
    assert found.data.tags["bcpg_cluster.page"] in found.data.tags["mlflow.note.content"]
    return {found.data.tags["mlflow.note.content"]}


def page_in_wandb(folder: Path, run: str, project: str) -> set[str]:
    records = list(wandb_run_records(folder))
    (page,) = {
        json.loads(item.value_json)
        for record in records
        if record.WhichOneof("record_type") == "summary"
        for item in record.summary.update
        if item.key == "page"
    }
    notes = {record.run.notes for record in records if record.WhichOneof("record_type") == "run"} - {""}
    assert all(page in note for note in notes)
    return notes


PAGES = {
    "tensorboard": page_in_tensorboard,
    "trackio": page_in_trackio,
    "wandb": page_in_wandb,
    "mlflow": page_in_mlflow,
}


@pytest.mark.parametrize("kind", TRACKERS)
def test_without_an_address_the_command_that_shows_the_page_is_there(tracked: Tracked, kind: str) -> None:
    pytest.importorskip(kind)
    command = f"bcpg-cluster view --run-dir '{tracked.folder.parent / tracked.name}'"
    assert PAGES[kind](tracked.folder, tracked.name, "fakes") == {f"Run page: `{command}`"}


@pytest.mark.parametrize("kind", TRACKERS)
def test_the_address_of_the_page_is_linked(tmp_path: Path, kind: str) -> None:
    pytest.importorskip(kind)
    feed = Feed(kind, TrackedRun("1", "run", "p", str(tmp_path), page="https://ci.example/run.html"))
    feed.log("round", 0, {"round/accuracy": 0.5})
    feed.finish()
    feed.close(120.0)
    assert feed.failure is None, feed.log_path.read_text()
    link = "Run page: [https://ci.example/run.html](https://ci.example/run.html)"
    assert PAGES[kind](tmp_path, "run", "p") == {link}


def test_a_later_address_replaces_the_earlier_and_a_persons_description_stays(tmp_path: Path) -> None:
    pytest.importorskip("mlflow")
    from mlflow import MlflowClient

    def start(page: str) -> dict[str, str]:
        feed = Feed("mlflow", TrackedRun("1", "run", "p", str(tmp_path), page=page))
        feed.finish()
        feed.close(120.0)
        assert feed.failure is None, feed.log_path.read_text()
        (found,) = client.search_runs([client.get_experiment_by_name("p").experiment_id])
        return dict(found.data.tags, id=found.info.run_id)

    client = MlflowClient(f"sqlite:///{tmp_path / 'mlflow' / 'mlflow.db'}")
    assert "(https://a/1)" in start("https://a/1")["mlflow.note.content"]
    tags = start("https://a/2")
    assert "(https://a/2)" in tags["mlflow.note.content"]
    client.set_tag(tags["id"], "mlflow.note.content", "the run with the good seed")
    tags = start("https://a/3")
    assert (tags["mlflow.note.content"], tags["bcpg_cluster.page"]) == ("the run with the good seed", "https://a/3")


def test_trackio_has_traces_of_each_rounds_samples(tracked: Tracked) -> None:
    """What they say of steps is in test_traces.py; here, that trackio stored them, each round's under its step."""
    pytest.importorskip("trackio")
    with sqlite3.connect(tracked.folder / "trackio" / "fakes.db") as database:
        rows = database.execute("select step, messages, metadata, spans from traces where key = 'samples'").fetchall()
    assert {step for step, *_ in rows} == {1, 2}  # round 0 has no samples to learn from
    assert all(sum(step == round_ for step, *_ in rows) <= 4 for round_ in (1, 2))
    for step, messages, metadata, spans in rows:
        assert [message["role"] for message in json.loads(messages)] == ["user", "assistant"]
        assert json.loads(metadata)["round"] == step
        names = [span["name"] for span in json.loads(spans)][1:]
        assert names == ["generate", "verify", "judge llm", "judge prm", "judge truth", "weigh"]


def test_traces_that_cannot_be_read_end_no_tracker(tmp_path: Path) -> None:
    pytest.importorskip("trackio")
    feed = Feed("trackio", TrackedRun("1", "run", "p", str(tmp_path), str(tmp_path / "gone"), options={"traces": 4}))
    feed.log("round", 1, {"round/accuracy": 0.5})
    feed.finish()
    feed.close(120.0)
    assert feed.failure is None
    assert "round 1 has no traces" in feed.log_path.read_text()


def run_at(folder: Path) -> TrackedRun:
    return TrackedRun(id="1", name="run", project="p", folder=str(folder))


def python(code: str) -> tuple[str, ...]:
    return (sys.executable, "-c", code)


@pytest.mark.parametrize(
    ("kind", "command", "why"),
    [
        ("nobody", None, "unknown tracker 'nobody'"),
        ("mlflow", python("import os; os._exit(7)"), "ended with 7"),
        ("wandb", python('import sys; print(\'{"failed": "no such account"}\'); sys.exit(1)'), "no such account"),
        ("trackio", python("import signal; signal.pause()"), "did not finish within 1 s"),
    ],
)
def test_a_tracker_that_fails_is_said_once_and_stops_nothing(
    tmp_path: Path, kind: str, command: tuple[str, ...] | None, why: str, finished_run: Any
) -> None:
    notes: list[str] = []
    feed = Feed(kind, run_at(tmp_path), command)
    observer = TrackingObserver([feed], {}, notes.append)
    for report in finished_run.reports.values():
        observer.hear(RoundFinished(RoundReport.read(report)))
    observer.close(1.0 if why.startswith("did not") else 120.0)
    assert [why in note and note.startswith(f"{kind} is gone, the run continues without it") for note in notes] == [
        True
    ]
    observer.hear(
        RoundFinished(RoundReport.read({**finished_run.reports[1], "round": 9}))
    )  # and it is left alone from then on
    assert len(notes) == 1


def test_a_tracker_that_takes_nothing_blocks_nobody(tmp_path: Path) -> None:
    """Far more than a pipe holds, to a process that never reads: the caller is not kept waiting, and the backlog has an end."""
    feed = Feed("wandb", run_at(tmp_path), python("import signal; signal.pause()"))
    values = {f"name{i}": float(i) for i in range(50)}
    for step in range(10_100):
        feed.log("train", step, values)
    assert feed.failure is not None and "lags" in feed.failure
    feed.finish()
    feed.close(0.0)


def test_output_of_packages_goes_to_a_file(tmp_path: Path) -> None:
    """trackio prints; the answers on the same stream stay readable."""
    pytest.importorskip("trackio")
    feed = Feed("trackio", run_at(tmp_path))
    feed.log("round", 0, {"round/accuracy": 0.5})
    feed.finish()
    feed.close(120.0)
    assert feed.failure is None and feed.where is not None
    assert "Trackio project initialized: p" in feed.log_path.read_text()
