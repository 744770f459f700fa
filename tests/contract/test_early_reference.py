"""A real trainer computes reference log-probs ahead of the weighing, or after it: the same tables and weights to the bit."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bcpg_cluster.cluster.gang import Gang
from bcpg_cluster.cluster.inline_runtime import InlineRuntime
from bcpg_cluster.cluster.runtime import MemberSpec
from bcpg_cluster.records import Outcome, OutcomeStatus, Rollout, SampleId, StopReason
from bcpg_cluster.run.pipeline.early_reference import EarlyReference
from bcpg_cluster.run.serving import Weights
from bcpg_cluster.run.training import open_job, train_round
from bcpg_cluster.stages.push.snapshot import verify_snapshot
from bcpg_cluster.stages.train.objective import Dpo
from bcpg_cluster.stages.train.protocol import TrainSettings
from bcpg_cluster.stages.train.torch_trainer import TorchTrainer
from bcpg_cluster.stages.train.worker import TrainWorker
from bcpg_cluster.stages.weigh.consensus import ConsensusRule
from bcpg_cluster.stages.weigh.stage import WeighSettings
from bcpg_cluster.stages.weigh.trained_rows import trained_rows
from bcpg_cluster.store.manifest import Manifest, SnapshotRecord
from bcpg_cluster.store.rows import Row, outcome_row, rollout_row, weighted_row
from bcpg_cluster.store.shards import write_shard
from bcpg_cluster.watch.observer import Event, ShardAccepted
from tests.told import Heard
from tests.trainer_contract import SETTINGS, make_model, make_rows

pytestmark = pytest.mark.engine

NUM_SHARDS = 3


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_model(tmp_path_factory.mktemp("models") / "tied", tied=True)


class Trainer(TorchTrainer):
    """Counts how often weights are loaded."""

    def open(self, model_path: str, settings: TrainSettings) -> None:
        self.num_opened = getattr(self, "num_opened", 0) + 1
        super().open(model_path, settings)


class Bench:
    """A verified round of three shards; the second has a group that teaches nothing."""

    def __init__(self, run_dir: Path, model: str, settings: TrainSettings) -> None:
        self.manifest, self.runtime, self.model, self.settings = Manifest(run_dir), InlineRuntime(), model, settings
        self.weigh = WeighSettings((), (), {}, ConsensusRule(), 0.5, 0.5, "negative", 0.0, 7, settings.objective)
        self.are_there, self.trainer = threading.Event(), Trainer("cpu")
        self.heard = Heard(self._listen)
        self._tables = [self._verified(shard) for shard in range(NUM_SHARDS)]
        arguments = {
            "rank": 0, "world_size": 1, "make_engine": lambda *meeting: self.trainer, "verify": verify_snapshot,
            "rows_of_shard": trained_rows,
        }  # fmt: skip
        self.gang = Gang(
            "trainer", self.runtime, lambda group, rank: MemberSpec(f"t{group}", TrainWorker, arguments), 1
        )

    def _listen(self, event: Event) -> None:
        if isinstance(event, ShardAccepted) and len(self.heard.of(ShardAccepted)) == NUM_SHARDS:
            self.are_there.set()

    def _verified(self, shard: int) -> dict[str, list[Row]]:
        rows = make_rows(seed=shard, count=12)
        rollouts, outcomes = [], []
        for number, row in enumerate(rows):
            id_ = SampleId(1, f"p{shard}-{number // 4}", number % 4)
            texts = ("x",) * len(row.token_ids)
            prompt = rows[4 * (number // 4)].prompt_token_ids
            rollouts.append(
                rollout_row(Rollout(id_, prompt, row.token_ids, (-0.5,) * len(texts), texts, StopReason.STOP, 0, None))
            )
            reward = 1.0 if (shard, number // 4) == (1, 1) else float(number % 4 < 2)
            outcomes.append(outcome_row(Outcome(id_, OutcomeStatus.VERIFIED, reward, "1")))
        self._accept("rollouts", shard, rollouts)
        self._accept("outcomes", shard, outcomes)
        return {"rollouts": rollouts, "outcomes": outcomes}

    def _accept(self, table: str, shard: int, rows: list[Row]) -> None:
        self.manifest.accept(
            write_shard(
                self.manifest.run_dir, table=table, round_=1, shard=shard, attempt="a", rows=rows, seconds=0, metrics={}
            )
        )

    def train(self, *, is_early: bool) -> SnapshotRecord:
        start = Weights(0, self.model)
        early = EarlyReference(
            self.manifest, self.gang, open_job(self.manifest, 1, start, self.settings), self.weigh,
            check_start=lambda: None, observer=self.heard, tend=lambda: None, without_training=nullcontext,
        )  # fmt: skip
        with early if is_early else nullcontext():
            assert not is_early or self.are_there.wait(120)
        for shard, tables in enumerate(self._tables):
            rows = [
                replace(row, token_weights=(1.0,) * len(row.token_ids), mined=(False,) * len(row.token_ids))
                for row in trained_rows(tables, self.weigh)
            ]
            self._accept("weighted", shard, [weighted_row(row) for row in rows])
        self.manifest.seal(1, "weighted", NUM_SHARDS)
        return train_round(
            self.manifest, self.gang, round_=1, start=start, settings=self.settings, num_canaries=2, observer=self.heard
        )

    def close(self) -> None:
        self.runtime.shutdown()
        self.manifest.close()


@pytest.fixture
def make_bench(tmp_path: Path, model: str) -> Iterator[Callable[..., Bench]]:
    made: list[Bench] = []

    def make(name: str, **settings: Any) -> Bench:
        made.append(Bench(tmp_path / name, model, replace(SETTINGS, **settings)))
        return made[-1]

    yield make
    for bench in made:
        bench.close()


@pytest.mark.parametrize(
    "settings", [{}, {"objective": Dpo()}, {"dtype": "bfloat16"}], ids=["samples", "pairs", "bf16"]
)
def test_both_orders_train_the_same_weights(make_bench: Callable[..., Bench], settings: dict[str, Any]):
    early, late = make_bench("early", **settings), make_bench("late", **settings)
    trained = {bench: bench.train(is_early=bench is early) for bench in (early, late)}
    assert trained[early].digests == trained[late].digests
    assert [bench.trainer.num_opened for bench in (early, late)] == [1, 1]
    tables = [[r.checksum for r in bench.manifest.state.receipts(1, "reference")] for bench in (early, late)]
    assert tables[0] == tables[1]
    assert len(tables[0]) == NUM_SHARDS
    assert early.heard.of(ShardAccepted)[-1].receipt.seconds > 0
    summary = trained[early].training
    assert summary is not None
    assert summary.reference_s is not None
    assert summary.reference_s > 0
