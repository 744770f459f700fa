"""training.py: a round of the trainer group, what survives its loss, and which snapshots are kept."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest

from bcpg_cluster.cluster.gang import Gang
from bcpg_cluster.cluster.inline_runtime import InlineRuntime
from bcpg_cluster.cluster.lifecycle import progress
from bcpg_cluster.cluster.liveness.rank_watch import ProgressLimits, ProgressWatch
from bcpg_cluster.cluster.runtime import MemberSpec
from bcpg_cluster.errors import DataError, EngineError, MemberLostError, StoreError, TrainingDivergedError
from bcpg_cluster.records import SampleId
from bcpg_cluster.run.serving import Weights
from bcpg_cluster.run.snapshots import drop_torn_snapshots, keep_snapshots
from bcpg_cluster.run.training import check_rows, steps_path, take_checkpoints, train_round
from bcpg_cluster.stages.fakes.skill import encode, verify_skill
from bcpg_cluster.stages.fakes.trainer import FakeTrainerRank
from bcpg_cluster.stages.push.canaries import read_canaries
from bcpg_cluster.stages.train.objective import Bcpg, Dpo, Kto, Objective, Rft
from bcpg_cluster.stages.train.protocol import ReferenceLogprobs, StepReport, TrainSettings
from bcpg_cluster.stages.train.worker import TrainWorker
from bcpg_cluster.stages.weigh.counts import WeighCounts
from bcpg_cluster.store.manifest import Manifest, SnapshotRecord
from bcpg_cluster.store.rows import Rival, WeightedRow, reference_from, weighted_row
from bcpg_cluster.store.shards import read_table, write_shard
from bcpg_cluster.watch.observer import Faulted, StepTrained
from tests.told import Heard

SETTINGS = TrainSettings(objective=Bcpg(), learning_rate=1e-4, min_learning_rate=1e-5, batch_sequences=4)


@pytest.fixture
def manifest(tmp_path: Path) -> Iterator[Manifest]:
    with Manifest(tmp_path) as made:
        yield made


# --- which snapshots are kept


def add(manifest: Manifest, version: int, path: str | None = None) -> None:
    path = f"snapshots/v{version:04d}-a" if path is None else path
    if path:
        (manifest.run_dir / path).mkdir(parents=True, exist_ok=True)
        (manifest.run_dir / path / "model.safetensors").write_text(str(version))
    manifest.add_snapshot(SnapshotRecord(version, path, {}, 0.0))


def on_disk(manifest: Manifest) -> list[int]:
    return sorted(int(path.name[1:5]) for path in (manifest.run_dir / "snapshots").iterdir())


@pytest.mark.parametrize(
    ("scores", "keep_last", "kept"),
    [
        ({}, 2, [4, 5]),
        ({}, 9, [1, 2, 3, 4, 5]),
        ({1: 0.5, 2: 0.9, 3: 0.7, 4: 0.6, 5: 0.8}, 2, [2, 4, 5]),
        ({1: 0.9, 2: 0.9, 3: 0.1, 4: 0.1, 5: 0.1}, 1, [2, 5]),  # of equals the newer is the best
        ({1: 0.1, 5: 0.9}, 1, [5]),
    ],
)
def test_the_newest_and_the_best_are_kept(
    manifest: Manifest, scores: dict[int, float], keep_last: int, kept: list[int]
):
    for version in range(1, 6):
        add(manifest, version)
    deleted = keep_snapshots(manifest, scores, keep_last, measured=5)
    assert on_disk(manifest) == kept
    assert sorted([*deleted, *kept]) == [1, 2, 3, 4, 5]
    assert manifest.state.snapshots.keys() == {1, 2, 3, 4, 5}  # the records stay
    assert keep_snapshots(manifest, scores, keep_last, measured=5) == []


def test_rounds_without_training_share_files_that_stay(manifest: Manifest):
    add(manifest, 1)
    add(manifest, 2, "snapshots/v0001-a")
    add(manifest, 3, "snapshots/v0001-a")
    assert keep_snapshots(manifest, {}, 1, measured=3) == []
    add(manifest, 4)
    add(manifest, 5)
    keep_snapshots(manifest, {}, 1, measured=5)
    assert on_disk(manifest) == [5]


def test_a_round_that_left_the_base_as_it_is_costs_nothing_when_it_grows_old(manifest: Manifest):
    """Its record has no files of its own: an empty path, which must never be taken for the run directory."""
    add(manifest, 1, "")
    for version in (2, 3, 4):
        add(manifest, version)
    assert keep_snapshots(manifest, {}, 2, measured=4) == [2]
    assert on_disk(manifest) == [3, 4]
    assert (manifest.run_dir / "manifest.jsonl").is_file()


def test_torn_snapshots_are_dropped(manifest: Manifest):
    add(manifest, 1)
    torn = manifest.run_dir / "snapshots" / "v0002-torn"
    torn.mkdir()
    (torn / "half.safetensors").write_text("x")
    drop_torn_snapshots(manifest.run_dir, manifest)
    assert on_disk(manifest) == [1]
    assert not torn.exists()


def test_no_snapshots_yet(manifest: Manifest):
    drop_torn_snapshots(manifest.run_dir, manifest)
    assert keep_snapshots(manifest, {}, 2, measured=0) == []


# --- training


class Trainer(FakeTrainerRank):
    """A fake that fails as ``script`` says: one entry per call of ``train``, ``None`` for a good one."""

    script: ClassVar[list[BaseException | None]] = []
    opened: ClassVar[list[str]] = []
    references: ClassVar[int] = 0
    stops_after: ClassVar[int | None] = None
    hung: ClassVar[threading.Event | None] = None

    def open(self, model_path: str, settings: TrainSettings) -> None:
        Trainer.opened.append(model_path)
        super().open(model_path, settings)

    def reference_logprobs(self, rows: Any) -> dict[int, ReferenceLogprobs]:
        Trainer.references += 1
        return super().reference_logprobs(rows)

    def train(self, rows: Any, checkpoint_dir: str | None, resume: Any = None) -> list[StepReport]:
        for row in rows:
            assert len(row.reference.response) == len(row.token_ids) == len(row.mined)
            assert len(row.reference.rival) == len(row.rival_token_ids)
        if checkpoint_dir:
            Path(checkpoint_dir).mkdir(parents=True, exist_ok=True)
        if Trainer.hung is not None:
            hung, Trainer.hung = Trainer.hung, None
            self.progress.begin("micro-batch", "3 of 8", is_even=True)
            hung.wait(60)
        error = Trainer.script.pop(0) if Trainer.script else None
        if error is not None:
            raise error
        return super().train(rows, checkpoint_dir, resume)[: Trainer.stops_after]


class Bench:
    def __init__(
        self,
        manifest: Manifest,
        size: int = 1,
        objective: Objective = Bcpg(),
        limits: ProgressLimits = ProgressLimits(),
    ) -> None:
        self.manifest, self.runtime = manifest, InlineRuntime()
        self.settings = replace(SETTINGS, objective=objective)
        self.observer = Heard()

        def spec(group: int, rank: int) -> MemberSpec:
            arguments = {
                "rank": rank, "world_size": size,
                "make_engine": lambda rank, world_size, host, port: Trainer(rank, world_size),
                "verify": verify_skill,
            }  # fmt: skip
            return MemberSpec(f"trainer/{rank}.{group}", TrainWorker, arguments)

        self.gang = Gang("trainer", self.runtime, spec, size, watch=ProgressWatch(limits))
        for shard in range(2):
            rows = [weighted_row(self.row(shard, sample, objective)) for sample in range(5)]
            manifest.accept(
                write_shard(
                    manifest.run_dir,
                    table="weighted",
                    round_=1,
                    shard=shard,
                    attempt="a",
                    rows=rows,
                    seconds=0,
                    metrics={},
                )
            )
        manifest.seal(1, "weighted", 2)

    @staticmethod
    def row(shard: int, sample: int, objective: Objective) -> WeightedRow:
        """A pair's own response is always the same one: only its rival tells the rows apart."""
        is_pair = objective.rows == "pairs"
        response = encode("1+1=2\nanswer 2")[: 3 + (0 if is_pair else sample)]
        return WeightedRow(
            SampleId(1, f"p{shard}", 0 if is_pair else sample),
            encode("q"),
            response,
            token_weights=(1.0,) * len(response),
            mined=(False,) * len(response),
            advantage=0.5,
            reward=1.0,
            group_mean=0.5,
            group_size=5,
            rival=Rival(SampleId(1, f"p{shard}", 10 + sample), encode("wrong" * 2)[: 1 + sample]) if is_pair else None,
        )

    def train(self, **settings: Any) -> SnapshotRecord:
        return train_round(
            self.manifest, self.gang, round_=1, start=Weights(0, "base"), settings=self.settings, num_canaries=3,
            observer=self.observer, **settings,
        )  # fmt: skip


@pytest.fixture
def make_bench(manifest: Manifest) -> Iterator[Callable[..., Bench]]:
    Trainer.script, Trainer.opened, Trainer.references, Trainer.stops_after = [], [], 0, None
    made: list[Bench] = []

    def make(*settings: Any, **more: Any) -> Bench:
        made.append(Bench(manifest, *settings, **more))
        return made[-1]

    yield make
    for bench in made:
        bench.runtime.shutdown()


def test_a_round_of_training(manifest: Manifest, make_bench: Callable[..., Bench]):
    bench = make_bench()
    record = bench.train()
    assert manifest.state.snapshots == {1: record}
    assert (manifest.run_dir / record.path / "fake.json").is_file()
    assert record.training.steps == record.training.steps_planned == 3.0  # 10 rows in batches of 4
    assert record.training.stopped_early == 0.0
    assert record.training.delta_per_token_right_last == 0.0
    assert "delta_per_token_wrong_last" not in record.training.plain()  # no row is wrong: there is no such mean
    assert record.training.sequences == 10.0
    assert record.training.tokens == 2 * sum(3 + sample for sample in range(5))
    canaries = read_canaries(manifest.run_dir / record.path)
    assert len(canaries) == 3
    for canary in canaries:
        assert len(canary.token_ids) == len(canary.before) == len(canary.after)
        assert canary.before != canary.after
    reference = reference_from(read_table(manifest.run_dir, manifest.state.receipts(1, "reference")))
    assert len(reference) == 10
    assert not (manifest.run_dir / "rounds/0001/checkpoint").exists()
    assert not (manifest.run_dir / "rounds/0001/decoded").exists()
    lines = [json.loads(line) for line in (manifest.run_dir / steps_path(1)).read_text().splitlines()]
    assert [line["step"] for line in lines] == [0, 1, 2]
    assert StepReport(**lines[0]).num_sequences == 4
    assert lines[0]["delta_per_token_mined"] is None
    assert [path.name for path in (manifest.run_dir / "reports").iterdir()] == ["training-0001.jsonl"]


@pytest.mark.parametrize("size", [1, 2])
def test_a_rank_that_hangs_is_given_up_and_what_it_does_later_changes_nothing(
    manifest: Manifest, make_bench: Callable[..., Bench], size: int
):
    """It answers, but gets nowhere; in a group of one no peer would notice."""
    Trainer.hung = hung = threading.Event()
    bench = make_bench(size, limits=ProgressLimits(ceiling_s=2.0, heartbeat_s=60.0))
    record = bench.train()
    hung.set()
    (faulted,) = bench.observer.of(Faulted)
    assert "made no progress for" in faulted.fault.cause
    assert "at micro-batch 3 of 8" in faulted.fault.cause
    assert "not answered" not in faulted.fault.cause
    assert record.training.steps == 3.0
    assert manifest.state.snapshots == {1: record}
    assert Trainer.references == 2 * size  # both shards once: what was sealed before is not made again


def test_a_rank_says_where_it_is(make_bench: Callable[..., Bench]):
    bench = make_bench()
    bench.train()
    said = progress(bench.gang.members[0]).result(10)
    assert said.where == "between two calls"
    assert said.moves > 10


def test_a_training_that_stopped_early_says_so(manifest: Manifest, make_bench: Callable[..., Bench]):
    bench = make_bench()
    Trainer.stops_after = 2
    training = bench.train().training
    assert (training.steps, training.steps_planned, training.stopped_early) == (2.0, 3.0, 1.0)
    assert training.sequences == 8.0
    assert len((manifest.run_dir / steps_path(1)).read_text().splitlines()) == 2


def test_pairs_are_joined_with_their_references_by_both_samples(manifest: Manifest, make_bench: Callable[..., Bench]):
    """Five pairs of a prompt share one right response; each has a rival of another length."""
    record = make_bench(2, Dpo()).train()
    reference = reference_from(read_table(manifest.run_dir, manifest.state.receipts(1, "reference")))
    assert len(reference) == 10
    for (own, rival), row in reference.items():
        assert rival is not None
        assert (own.sample, len(row.logprobs), len(row.rival_logprobs)) == (0, 3, 1 + rival.sample - 10)
    assert record.training.steps == 5.0  # two pairs are the four responses of a step
    assert record.training.sequences == 20.0
    assert sum(r.metrics["tokens"] for r in manifest.state.receipts(1, "reference")) == 10 * 3 + 2 * (1 + 2 + 3 + 4 + 5)


def test_one_group_serves_two_run_directories(make_bench: Callable[..., Bench], tmp_path: Path):
    first = make_bench()
    first.train()
    with Manifest(tmp_path / "other") as manifest:
        second = Bench(manifest)
        second.gang = first.gang
        record = second.train()
        assert (tmp_path / "other" / record.path / "fake.json").is_file()
        assert (tmp_path / "other" / steps_path(1)).is_file()
        assert len(read_canaries(tmp_path / "other" / record.path)) == 3
        second.runtime.shutdown()


@pytest.mark.parametrize(
    ("objective", "weighed", "problem"),
    [
        (Dpo(), {"rows": 0.0, "tokens.mined": 5.0}, "'dpo'.*rows = 0"),
        (Rft(), {"rows": 3.0, "rows.right": 0.0, "rows.wrong": 3.0}, "'rft'.*rows.right = 0, rows.wrong = 3"),
        (Rft(on="wrong"), {"rows": 3.0, "rows.right": 3.0}, "'rft'.*rows.wrong = 0"),
        (Bcpg(), {}, "'bcpg'.*rows = 0"),
    ],
)
def test_a_table_without_a_row_for_the_objective_is_refused(
    objective: Objective, weighed: dict[str, float], problem: str
):
    with pytest.raises(DataError, match=problem) as raised:
        check_rows(WeighCounts.read(weighed), objective)
    assert "at least one" in raised.value.rule
    assert raised.value.remedy


@pytest.mark.parametrize(
    ("objective", "weighed"),
    [
        (Dpo(), {"rows": 1.0, "rows.right": 1.0}),
        (Rft(), {"rows": 1.0, "rows.right": 1.0}),
        (Rft(on="wrong"), {"rows": 1.0, "rows.wrong": 1.0}),
        (Kto(), {"rows": 2.0, "rows.right": 1.0, "rows.wrong": 1.0}),
    ],
)
def test_a_table_with_one_row_is_enough(objective: Objective, weighed: dict[str, float]):
    check_rows(WeighCounts.read(weighed), objective)


def test_two_ranks_share_the_reference_pass(manifest: Manifest, make_bench: Callable[..., Bench]):
    """Each shard is dealt to both: shard 0 of the round is parts 0 and 1, shard 1 parts 2 and 3."""
    make_bench(2).train()
    assert manifest.state.sealed[1, "reference"].num_shards == 4
    assert [r.num_rows for r in manifest.state.receipts(1, "reference")] == [3, 2, 3, 2]


@pytest.mark.parametrize("error", [MemberLostError("killed"), EngineError("peer closed")])
def test_a_group_that_is_lost_starts_again(manifest: Manifest, make_bench: Callable[..., Bench], error: EngineError):
    bench = make_bench()
    Trainer.script = [error, None]
    record = bench.train()
    assert manifest.state.snapshots == {1: record}
    assert [event.fault.cause for event in bench.observer.of(Faulted)] == [str(error)]
    fault = bench.observer.of(Faulted)[0].fault
    assert (fault.what, fault.round, fault.pool) == ("train round 1", 1, "trainer")
    assert Trainer.opened == ["base", "base"]
    assert Trainer.references == 2  # a shard each: the sealed reference is not computed again
    assert [member.name for member in bench.gang.members] == ["trainer/0.1"]


def test_a_group_that_keeps_failing_stops_the_run(manifest: Manifest, make_bench: Callable[..., Bench]):
    bench = make_bench()
    Trainer.script = [EngineError(str(number)) for number in range(5)]
    with pytest.raises(EngineError, match=r"^1$"):
        bench.train(max_attempts=2)
    assert manifest.state.snapshots == {}
    assert not bench.gang.is_up


def test_a_loss_that_is_not_finite_is_not_tried_again(manifest: Manifest, make_bench: Callable[..., Bench]):
    bench = make_bench()
    Trainer.script = [TrainingDivergedError("loss is nan at step 3")]
    with pytest.raises(TrainingDivergedError, match="nan at step 3"):
        bench.train()
    assert manifest.state.snapshots == {}
    assert not (manifest.run_dir / "snapshots").exists()
    assert [event.fault.cause for event in bench.observer.of(Faulted)] == []


def test_rows_without_reference_are_refused(manifest: Manifest, make_bench: Callable[..., Bench]):
    bench = make_bench()
    manifest.accept(
        write_shard(manifest.run_dir, table="reference", round_=1, shard=0, attempt="x", rows=[], seconds=0, metrics={})
    )
    manifest.seal(1, "reference", 1)
    with pytest.raises(StoreError, match="5 of the 5 rows from row 0 on have no reference log-probs"):
        bench.train()


def test_a_group_that_was_given_up_cannot_reach_the_next_ones_checkpoints(tmp_path: Path):
    """It may be at work still, on a host that lost its link, and writes and deletes under the name that it was told."""
    first = tmp_path / take_checkpoints(tmp_path, 1)
    assert not first.exists()  # nothing to go on from
    first.mkdir(parents=True)
    (first / "progress").write_text("step 4")
    second = tmp_path / take_checkpoints(tmp_path, 1)
    assert (second / "progress").read_text() == "step 4"
    first.mkdir()  # late
    (first / "progress").write_text("step 9")
    third = tmp_path / take_checkpoints(tmp_path, 1)
    assert (third / "progress").read_text() == "step 4"
    assert len({first, second, third}) == 3


def test_steps_are_told_while_the_training_goes_on(make_bench: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch):
    was_heard = threading.Event()

    def train(self: Trainer, rows: Any, checkpoint_dir: str | None, resume: Any = None) -> list[StepReport]:
        done = FakeTrainerRank.train(self, rows, checkpoint_dir)
        assert len(done) > 1
        self.reports = done[:1]
        assert was_heard.wait(60), "the first step was not told before the training's end"
        return done

    bench = make_bench()
    bench.observer = Heard(lambda event: was_heard.set() if isinstance(event, StepTrained) else None)
    monkeypatch.setattr(Trainer, "train", train)
    bench.train()
    heard = [event.step for event in bench.observer.of(StepTrained)]
    assert [step.step for step in heard] == list(range(heard[0].num_steps))


def test_a_training_that_starts_again_tells_no_step_twice(make_bench: Callable[..., Bench]):
    bench = make_bench()
    Trainer.script = [MemberLostError("gone"), None]
    bench.train()
    heard = [event.step.step for event in bench.observer.of(StepTrained)]
    assert heard == sorted(set(heard))
    assert [event.fault.cause for event in bench.observer.of(Faulted)] == ["gone"]
