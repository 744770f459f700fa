"""A trainer rank is stopped (SIGSTOP) in the middle of its work: the group ends, starts again, and trains the same weights.

Real DeepSpeed ranks as actors of a real Ray. A rank stops itself, once, at the beginning of the piece that a test names.
"""

from __future__ import annotations

import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

from bcpg_cluster.cluster.gang import Gang
from bcpg_cluster.cluster.liveness.rank_progress import ProgressReporter
from bcpg_cluster.cluster.liveness.rank_watch import ProgressLimits, ProgressWatch
from bcpg_cluster.cluster.on_ray.runtime import ClusterChoice, RayRuntime
from bcpg_cluster.cluster.runtime import MemberSpec
from bcpg_cluster.records import SampleId
from bcpg_cluster.run.build.engines import make_trainer_rank, snapshot_verifier
from bcpg_cluster.run.serving import Weights
from bcpg_cluster.run.training import steps_path, train_round
from bcpg_cluster.stages.push.canaries import CANARIES
from bcpg_cluster.stages.train.objective import Bcpg
from bcpg_cluster.stages.train.protocol import TrainSettings
from bcpg_cluster.stages.train.worker import TrainWorker
from bcpg_cluster.store.manifest import Manifest, SnapshotRecord
from bcpg_cluster.store.rows import WeightedRow, weighted_row
from bcpg_cluster.store.shards import read_table, write_shard
from bcpg_cluster.watch.observer import Faulted
from tests.told import Heard

pytestmark = pytest.mark.engine

HEARTBEAT_S, GROUP_TIMEOUT_S = 8.0, 120.0  # the collectives' own time would not help in time
SETTINGS = TrainSettings(
    objective=Bcpg(tau=0.05),
    learning_rate=2e-3,
    min_learning_rate=1e-3,
    epochs=2,
    batch_sequences=5,
    micro_batch_tokens=40,
    checkpoint_every_steps=1,
    zero_stage=2,
    deepspeed={"zero_optimization": {"reduce_bucket_size": 3000}},
)


class SelfStopping(ProgressReporter):
    """Stops its process where a piece begins (a regular expression), the first time any process gets there."""

    def __init__(self, where: str, marker: Path) -> None:
        super().__init__()
        self._where, self._marker = where, marker

    def begin(self, doing: str, detail: str = "", *, is_even: bool = False) -> None:
        super().begin(doing, detail, is_even=is_even)
        if self._where and re.match(self._where, self.now().where) and not self._marker.exists():
            self._marker.write_text(f"{os.getpid()} {time.time()}")
            os.kill(os.getpid(), signal.SIGSTOP)


def host(rank: int, world_size: int, stops_at: str, marker: Path) -> TrainWorker:
    """A rank that stops itself where ``stops_at`` begins; it may be empty."""
    make_engine = partial(make_trainer_rank, "deepspeed", GROUP_TIMEOUT_S, "float32")
    worker = TrainWorker(rank, world_size, make_engine, snapshot_verifier("deepspeed"))
    worker._progress = SelfStopping(stops_at, marker)
    return worker


@dataclass
class Trained:
    """A round that was trained, perhaps in spite of a stop."""

    manifest: Manifest
    record: SnapshotRecord
    heard: Heard
    stopped: tuple[int, float] = (0, 0.0)  # pid and time
    retried_at: list[float] = field(default_factory=list)

    def result(self) -> dict[str, Any]:
        """Everything the round left behind, but for how long it took and what its files are called."""
        directory = self.manifest.run_dir
        return {
            "digests": self.record.digests,
            "reports": (directory / steps_path(1)).read_bytes(),
            "canaries": (directory / self.record.path / CANARIES).read_bytes(),
            "reference": sorted(map(str, read_table(directory, self.manifest.state.receipts(1, "reference")))),
        }


@pytest.fixture(scope="module")
def runtime() -> Iterator[RayRuntime]:
    import ray

    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers cannot import the tests
    made = RayRuntime(ClusterChoice("local", "a test"), namespace="bcpg-stopped-ranks", dashboard=False)
    yield made
    made.shutdown()


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("model")
    torch.manual_seed(1)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
    Qwen2ForCausalLM(Qwen2Config(**sizes, num_key_value_heads=1, vocab_size=61)).save_pretrained(path)
    (path / "tokenizer_config.json").write_text('{"chat_template": "stand-in"}')
    return str(path)


def weighted(sample: int) -> dict[str, Any]:
    is_right = sample % 3 == 0
    tokens = tuple(1 + (7 * sample + place) % 60 for place in range(3 + 2 * sample))
    weights = tuple(0.5 if not is_right and place % 2 else 1.0 for place in range(len(tokens)))
    return weighted_row(
        WeightedRow(
            SampleId(1, "p0", sample),
            (1, 2, 3),
            tokens,
            token_weights=weights,
            mined=tuple(weight < 1.0 for weight in weights),
            advantage=0.6 if is_right else -0.4,
            reward=float(is_right),
            group_mean=0.4,
            group_size=11,
        )
    )


class Bench:
    """Trains a round on groups of real ranks, each in a run directory of its own."""

    def __init__(self, runtime: RayRuntime, model: str, directory: Path) -> None:
        self._runtime, self._model, self._directory = runtime, model, directory
        self._alone: dict[int, dict[str, Any]] = {}
        self._number = 0

    def alone(self, size: int) -> dict[str, Any]:
        """What a group of this size makes when it is left alone."""
        if size not in self._alone:
            self._alone[size] = self.train(size).result()
        return self._alone[size]

    def train(
        self,
        size: int,
        stops: int = -1,
        at: str = "",
        *,
        heartbeat_s: float = HEARTBEAT_S,
        on_retry: Callable[[int], None] = lambda pid: None,
        meanwhile: Callable[[Path], None] = lambda marker: None,
    ) -> Trained:
        """Train with rank ``stops`` stopping itself where ``at`` begins.

        Args:
            on_retry: gets the stopped process's id when its group was given up.
            meanwhile: in a thread, from before the training on; gets the file that appears when the rank stops.
        """
        self._number += 1
        run_dir = self._directory / f"run-{self._number}"
        run_dir.mkdir()
        marker = run_dir / "stopped"

        def spec(group: int, rank: int) -> MemberSpec:
            arguments = {"rank": rank, "world_size": size, "stops_at": at if rank == stops else "", "marker": marker}
            name = f"trainer/{rank}.{self._number}.{group}"
            return MemberSpec(name, host, arguments, num_cpus=0.5, env={"OMP_NUM_THREADS": "1"})

        manifest = Manifest(run_dir)
        rows = [weighted(sample) for sample in range(11)]
        manifest.accept(
            write_shard(run_dir, table="weighted", round_=1, shard=0, attempt="a", rows=rows, seconds=0, metrics={})
        )
        manifest.seal(1, "weighted", 1)
        watch = ProgressWatch(ProgressLimits(600.0, heartbeat_s))
        gang = Gang("trainer", self._runtime, spec, size, watch=watch)
        retried_at: list[float] = []

        def hear(event: object) -> None:
            if isinstance(event, Faulted):
                retried_at.append(time.time())
                on_retry(int(marker.read_text().split()[0]))

        helper = threading.Thread(target=meanwhile, args=(marker,))
        helper.start()
        heard = Heard(hear)
        record = train_round(
            manifest, gang, round_=1, start=Weights(0, self._model), settings=SETTINGS, num_canaries=3, observer=heard,
        )  # fmt: skip
        helper.join()
        gang.kill()
        trained = Trained(manifest, record, heard, retried_at=retried_at)
        if marker.exists():
            pid, when = marker.read_text().split()
            trained.stopped = int(pid), float(when)
        return trained


@pytest.fixture(scope="module")
def bench(runtime: RayRuntime, model: str, tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(runtime, model, tmp_path_factory.mktemp("runs"))


def is_gone(pid: int, patience_s: float = 30.0) -> bool:
    for _ in range(round(patience_s * 10)):
        if not Path(f"/proc/{pid}").exists():
            return True
        time.sleep(0.1)
    return False


def wake(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGCONT)


PLACES = {
    "loading": (2, 1, "building the engine"),
    "reference pass": (2, 1, r"reference micro-batch 2 of \d"),
    "micro-batch": (2, 1, r"micro-batch 1 of \d in step 4 of 6"),
    "micro-batch on rank 0": (2, 0, r"micro-batch 1 of \d in step 4 of 6"),
    "group of one": (1, 0, r"micro-batch 2 of \d in step 4 of 6"),
    "optimiser step": (2, 1, "optimiser step 3 of 6"),
    "step checkpoint": (2, 1, "step checkpoint after step 3"),
    "snapshot": (2, 0, r"parameter model\."),
}
QUICK = ("micro-batch", "group of one")


@pytest.mark.parametrize("place", [pytest.param(p, marks=() if p in QUICK else pytest.mark.slow) for p in PLACES])
def test_a_stopped_rank(bench: Bench, place: str, record_property: Callable[[str, object], None]):
    size, rank, at = PLACES[place]
    calm = bench.alone(size)
    stopped = bench.train(size, rank, at)
    pid, when = stopped.stopped
    assert pid, f"no rank came to {at!r}"
    (retried,) = stopped.heard.of(Faulted)
    assert f"trainer/{rank}." in retried.fault.cause.split("made no progress")[0]
    assert f"pid {pid})" in retried.fault.cause
    assert "has not answered for" in retried.fault.cause
    assert is_gone(pid), "a stopped process was left behind"
    silence_s = stopped.retried_at[0] - when
    record_property("silence_s", round(silence_s, 1))
    print(f"{place}: {silence_s:.1f} s from the stop to the group's end: {retried.fault.cause}")
    assert stopped.result() == calm


@pytest.mark.slow
def test_one_that_continues_in_time_is_not_given_up(bench: Bench):
    def continue_soon(marker: Path) -> None:
        while not marker.exists():
            time.sleep(0.05)
        time.sleep(5.0)
        wake(int(marker.read_text().split()[0]))

    trained = bench.train(2, 1, PLACES["micro-batch"][2], heartbeat_s=60.0, meanwhile=continue_soon)
    assert trained.stopped[0]
    assert trained.heard.of(Faulted) == []
    assert trained.result() == bench.alone(2)


@pytest.mark.slow
@pytest.mark.parametrize("place", ["micro-batch", "snapshot"])
def test_one_that_continues_too_late_changes_nothing(bench: Bench, place: str):
    """It wakes while Ray is about to end it, and its group has been started again."""
    size, rank, at = PLACES[place]
    trained = bench.train(size, rank, at, on_retry=wake)
    assert len(trained.heard.of(Faulted)) == 1
    assert is_gone(trained.stopped[0])
    assert trained.result() == bench.alone(size)
