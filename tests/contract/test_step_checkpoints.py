"""Step checkpoints of real trainers under faults: damage, a pickle with code, a disk that fails, weights that are not finite."""

from __future__ import annotations

import os
import pickle
import shutil
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from bcpg_cluster.cluster.gang import Gang
from bcpg_cluster.cluster.inline_runtime import InlineRuntime
from bcpg_cluster.cluster.runtime import MemberSpec
from bcpg_cluster.errors import DataError, EngineError, RunDirectoryError, TrainingDivergedError
from bcpg_cluster.records import SampleId, StepCheckpoint
from bcpg_cluster.run.preflight.model_files import check_model_files
from bcpg_cluster.run.serving import Weights
from bcpg_cluster.run.training import train_round
from bcpg_cluster.stages.push.file_digests import DigestedFile
from bcpg_cluster.stages.push.snapshot import verify_snapshot
from bcpg_cluster.stages.train.deepspeed.checkpoint_files import CheckedFiles
from bcpg_cluster.stages.train.protocol import StepReport, TrainRow, TrainSettings
from bcpg_cluster.stages.train.step_checkpoints.record import RECORD, check_step_checkpoint, checkpoint_name
from bcpg_cluster.stages.train.torch_trainer import TorchTrainer
from bcpg_cluster.stages.train.worker import TrainWorker
from bcpg_cluster.store.manifest import Manifest, SnapshotRecord
from bcpg_cluster.store.rows import WeightedRow, weighted_row
from bcpg_cluster.store.shards import write_shard
from bcpg_cluster.watch.observer import Faulted
from tests.told import Heard
from tests.trainer_contract import SETTINGS, make_model, make_rows, with_reference

pytestmark = pytest.mark.engine

STEPWISE = replace(SETTINGS, checkpoint_every_steps=1)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_model(tmp_path_factory.mktemp("models") / "tied", tied=True)


@pytest.fixture
def opened(model: str) -> tuple[TorchTrainer, list[TrainRow]]:
    trainer = TorchTrainer("cpu")
    trainer.open(model, STEPWISE)
    return trainer, with_reference(make_rows(), trainer.reference_logprobs(make_rows()))


class Cut(Exception):
    """Ends a training after some steps."""


class Trainer(TorchTrainer):
    """The first of a bench loses its checkpoints after step 4 as ``damage`` says, and fails.

    Attributes:
        noted: set when the manifest counts a checkpoint of so many steps.
    """

    damage: Callable[[Path], None] | None = None
    noted: dict[int, threading.Event]

    def _write_checkpoint(self, plan: Any, reports: list[StepReport], checkpoint_dir: str) -> None:
        super()._write_checkpoint(plan, reports, checkpoint_dir)
        damage = Trainer.damage
        if damage is not None and len(reports) in (3, 4):
            assert Trainer.noted[len(reports)].wait(60)
        if damage is not None and len(reports) == 4:
            Trainer.damage = None
            damage(Path(checkpoint_dir))
            raise EngineError("cut off")


class Bench:
    """A round on a tiny model, driven as a run drives it."""

    def __init__(self, run_dir: Path, model: str) -> None:
        self.manifest, self.runtime, self.heard, self.model = Manifest(run_dir), InlineRuntime(), Heard(), model
        rows = [
            weighted_row(
                WeightedRow(
                    SampleId(1, "p", sample), row.prompt_token_ids, row.token_ids, row.token_weights, row.mined,
                    row.advantage, row.reward, row.group_mean, row.group_size, None,
                )
            )
            for sample, row in enumerate(make_rows())
        ]  # fmt: skip
        receipt = write_shard(
            run_dir, table="weighted", round_=1, shard=0, attempt="a", rows=rows, seconds=0, metrics={}
        )
        self.manifest.accept(receipt)
        self.manifest.seal(1, "weighted", 1)
        arguments = {
            "rank": 0, "world_size": 1, "make_engine": lambda *meeting: Trainer("cpu"), "verify": verify_snapshot,
        }  # fmt: skip
        self.gang = Gang(
            "trainer", self.runtime, lambda group, rank: MemberSpec(f"t{group}", TrainWorker, arguments), 1
        )

    def train(self, settings: TrainSettings = STEPWISE) -> SnapshotRecord:
        return train_round(
            self.manifest, self.gang, round_=1, start=Weights(0, self.model), settings=settings, num_canaries=2,
            observer=self.heard,
        )  # fmt: skip

    def close(self) -> None:
        self.runtime.shutdown()
        self.manifest.close()


@pytest.fixture
def benches(tmp_path: Path, model: str) -> Iterator[Callable[[str], Bench]]:
    made: list[Bench] = []

    def make(name: str) -> Bench:
        made.append(Bench(tmp_path / name, model))
        return made[-1]

    yield make
    for bench in made:
        bench.close()


def cut_off(number: int) -> Callable[[Path], None]:
    def damage(checkpoint_dir: Path) -> None:
        state = checkpoint_dir / checkpoint_name(number) / "state.pt"
        os.truncate(state, state.stat().st_size // 2)

    return damage


def of_both(checkpoint_dir: Path) -> None:
    cut_off(4)(checkpoint_dir)
    shutil.rmtree(checkpoint_dir / checkpoint_name(3))


def exchanged(checkpoint_dir: Path) -> None:
    """A whole checkpoint, under another's name."""
    shutil.rmtree(checkpoint_dir / checkpoint_name(4))
    shutil.copytree(checkpoint_dir / checkpoint_name(3), checkpoint_dir / checkpoint_name(4))


def untouched(checkpoint_dir: Path) -> None:
    pass


@pytest.mark.parametrize(
    ("damage", "why", "resumes_from"),
    [
        (untouched, [], 4),
        (cut_off(4), ["step-000004/state.pt has"], 3),
        (exchanged, [f"step-000004/{RECORD} is not what was written"], 3),
        (of_both, ["step-000004/state.pt has", f"step-000003/{RECORD} is not there"], 0),
    ],
)
def test_a_cut_training_falls_back_and_ends_as_one_that_was_left_alone(
    benches: Callable[[str], Bench],
    damage: Any,
    why: list[str],
    resumes_from: int,
    monkeypatch: pytest.MonkeyPatch,
):
    alone = benches("alone")
    wanted = alone.train(replace(STEPWISE, checkpoint_every_steps=0))
    bench = benches("cut")
    add, Trainer.damage, Trainer.noted = bench.manifest.add_step_checkpoint, damage, defaultdict(threading.Event)

    def note(round_: int, checkpoint: StepCheckpoint) -> None:
        add(round_, checkpoint)
        Trainer.noted[checkpoint.num_steps].set()

    monkeypatch.setattr(bench.manifest, "add_step_checkpoint", note)
    record = bench.train()
    lost, *passed_over = [event.fault for event in bench.heard.of(Faulted)]
    assert lost.cause == "cut off"
    assert len(passed_over) == len(why)
    for fault, start in zip(passed_over, why, strict=True):
        assert fault.cause.startswith(start)
        assert fault.consequence == f"training resumes from step {resumes_from}"
    assert record.digests == wanted.digests
    files = ["reports/training-0001.jsonl", f"{record.path}/canaries.json"]
    others = ["reports/training-0001.jsonl", f"{wanted.path}/canaries.json"]
    for mine, theirs in zip(files, others, strict=True):
        assert (bench.manifest.run_dir / mine).read_bytes() == (alone.manifest.run_dir / theirs).read_bytes()
    assert bench.manifest.state.step_checkpoints == {}
    assert not (bench.manifest.run_dir / "rounds/0001/checkpoint").exists()


class Bomb:
    def __reduce__(self) -> tuple[object, ...]:
        return (os.mkdir, (os.environ["BOMB"],))


@pytest.mark.parametrize("kind", ["pickle", "torch"])
def test_code_in_a_checkpoint_is_not_run(
    tmp_path: Path, opened: Any, model: str, kind: str, monkeypatch: pytest.MonkeyPatch
):
    """Neither while it is checked, nor when it is exchanged after the check."""
    monkeypatch.setenv("BOMB", str(tmp_path / "went off"))
    trainer, rows = opened
    trainer.train(rows, str(tmp_path / "steps"))
    vouched = trainer.newest_checkpoint()
    assert vouched is not None
    state = tmp_path / "steps" / checkpoint_name(vouched.num_steps) / "state.pt"
    if kind == "torch":
        torch.save({"policy": Bomb()}, state)
    else:
        state.write_bytes(pickle.dumps(Bomb()))
    (fault,) = check_step_checkpoint(state.parent, vouched, 0)
    assert fault.file == "state.pt"
    trainer.open(model, STEPWISE)
    with pytest.raises(EngineError, match="could not be loaded"):
        trainer.train(rows, str(tmp_path / "steps"), vouched)
    with pytest.raises(pickle.UnpicklingError):
        CheckedFiles(0, None).load(str(state), "cpu")
    assert not (tmp_path / "went off").exists()


class FullDisk:
    """Disk operations, of which the ``number``-th raises.

    Attributes:
        done: their names.
    """

    def __init__(self, number: int) -> None:
        self._number, self.done = number, []

    def operation(self, name: str) -> None:
        self.done.append(name)
        if len(self.done) == self._number:
            raise OSError(28, "No space left on device")

    def counted(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            self.operation(name)
            return real(*args, **options)

        return call

    def written(self, file: DigestedFile, content: bytes) -> int:
        try:
            self.operation("write")
        except OSError as error:
            file.error = error
            raise
        return WRITE(file, content)

    @contextmanager
    def stands_in(self, patch: pytest.MonkeyPatch) -> Iterator[None]:
        with patch.context() as disk:
            disk.setattr(os, "fsync", self.counted("fsync", os.fsync))
            for name in ("mkdir", "rename", "open"):
                disk.setattr(Path, name, self.counted(name, getattr(Path, name)))
            disk.setattr(DigestedFile, "write", lambda file, content: self.written(file, content))
            yield


WRITE = DigestedFile.write


def test_the_checkpoint_before_survives_a_disk_that_fails_anywhere(
    tmp_path: Path, opened: Any, model: str, monkeypatch: pytest.MonkeyPatch
):
    """Every operation of the second checkpoint's writing fails once; then the training resumes from the first."""
    trainer, rows = opened
    wanted = trainer.train(rows, None)
    trainer.open(model, STEPWISE)
    write, writes = trainer._write_checkpoint, []

    def write_once(*args: Any) -> None:
        writes.append(args)
        if len(writes) == 2:
            raise Cut
        write(*args)

    monkeypatch.setattr(trainer, "_write_checkpoint", write_once)
    place, number = tmp_path / "steps", 0
    with pytest.raises(Cut):
        trainer.train(rows, str(place))
    first = trainer.newest_checkpoint()
    while True:
        number += 1
        shutil.rmtree(place / checkpoint_name(2), ignore_errors=True)
        disk = FullDisk(number)
        try:
            with disk.stands_in(monkeypatch):
                write(*writes[1])
            break
        except RunDirectoryError as error:
            assert "No space left on device" in error.problem and error.remedy
        assert trainer.newest_checkpoint() == first
        assert check_step_checkpoint(place / checkpoint_name(1), first) == ()
    assert {"mkdir", "open", "write", "fsync", "rename"} <= set(disk.done)
    assert number == len(disk.done) + 1
    # The next start: what does not count is gone, and the result is what it would have been.
    trainer.open(model, STEPWISE)
    monkeypatch.undo()
    assert trainer.train(rows, str(place), first) == wanted


def test_a_model_that_is_not_finite_is_refused_before_it_is_trained(tmp_path: Path, model: str):
    """`validate` looks at the beginning of every tensor, the trainers at all values."""
    path = Path(shutil.copytree(model, tmp_path / "model"))
    check_model_files("policy.model", path, "causal", needs_weights=True)
    tensors = load_file(path / "model.safetensors")
    name = "model.layers.1.mlp.up_proj.weight"
    tensors[name][-1, -1] = float("inf")
    save_file(tensors, path / "model.safetensors", {"format": "pt"})
    with pytest.raises(DataError, match=f"policy.model: .* has values that are not finite in {name}"):
        check_model_files("policy.model", path, "causal", needs_weights=True)
    with pytest.raises(DataError, match=f"has values that are not finite in {name}"):
        TorchTrainer("cpu").open(str(path), SETTINGS)
    bits = {name: value.to(torch.bfloat16) for name, value in load_file(Path(model, "model.safetensors")).items()}
    save_file(bits, path / "model.safetensors", {"format": "pt"})
    check_model_files("policy.model", path, "causal", needs_weights=True)
    bits[name][0, 0] = float("nan")
    save_file(bits, path / "model.safetensors", {"format": "pt"})
    with pytest.raises(DataError, match="not finite"):
        check_model_files("policy.model", path, "causal", needs_weights=True)


@pytest.mark.parametrize("number", [1, 2])
def test_weights_that_are_not_finite_after_a_step_whose_loss_was(tmp_path: Path, opened: Any, number: int):
    """The last step's update overflows: its loss and gradient were computed before. With and without a step checkpoint."""
    trainer, rows = opened
    step = trainer._train_step

    def overflow(index: int, *args: Any) -> StepReport:
        report = step(index, *args)
        if index == number - 1:
            with torch.no_grad():
                trainer._policy.trained_parameters()[0].view(-1)[0] = float("inf")
        return report

    trainer._train_step = overflow
    with pytest.raises(TrainingDivergedError, match="not finite after this step"):
        trainer.train(rows, str(tmp_path / "steps"))
    kept = trainer.newest_checkpoint()
    assert (kept.num_steps if kept else 0) == number - 1
    with pytest.raises(TrainingDivergedError, match="no snapshot was written"):
        trainer.save_snapshot(str(tmp_path / "v1"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["steps"]
