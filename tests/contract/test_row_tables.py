"""Training from a table on disk is training from objects: every objective's losses and weights to the last bit, and who resumes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from bcpg_cluster.cluster.liveness.rank_progress import ProgressReporter
from bcpg_cluster.records import Receipt, SampleId
from bcpg_cluster.stages.train.protocol import ReferenceLogprobs, StepReport, TrainRow
from bcpg_cluster.stages.train.table.opening import TableOpener
from bcpg_cluster.stages.train.table.row_table import RowTable
from bcpg_cluster.stages.train.torch_trainer import TorchTrainer
from bcpg_cluster.store.rows import ReferenceRow, Rival, Row, WeightedRow, reference_row, weighted_row
from bcpg_cluster.store.shards import write_shard
from tests.trainer_contract import (
    OBJECTIVES,
    SETTINGS,
    StopAfter,
    make_model,
    make_rows,
    newest_on_disk,
    objective_rows,
    stop_after_checkpoint,
    with_reference,
    with_stale_reference,
)

pytestmark = pytest.mark.engine

PER_SHARD = 4


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_model(tmp_path_factory.mktemp("models") / "tied", tied=True)


def trainer_of(model: str, name: str = "bcpg", checkpoint_every_steps: int = 0) -> TorchTrainer:
    trainer = TorchTrainer("cpu")
    trainer.open(model, replace(OBJECTIVES[name], checkpoint_every_steps=checkpoint_every_steps))
    return trainer


def on_disk(run_dir: Path, rows: list[TrainRow]) -> RowTable:
    """The rows as a run has them: weighed, with references, in shards."""
    keyed = [(weighted_of(number, row), row.reference) for number, row in enumerate(rows)]
    weighted, references = [], []
    for start in range(0, len(keyed), PER_SHARD):
        shard = keyed[start : start + PER_SHARD]
        number = start // PER_SHARD
        weighted.append(write(run_dir, "weighted", number, [weighted_row(row) for row, _ in shard]))
        found = [ReferenceRow(row.key, of.response, of.rival) for row, of in shard if of is not None]
        references.append(write(run_dir, "reference", number, [reference_row(row) for row in found]))
    opener = TableOpener(run_dir, run_dir / "decoded", 0, 1, ProgressReporter())
    return opener.with_reference(opener.rows(weighted), references)


def weighted_of(number: int, row: TrainRow) -> WeightedRow:
    id_ = SampleId(1, "p", number)
    rival = Rival(SampleId(1, "p", 1000 + number), row.rival_token_ids) if row.rival_token_ids else None
    return WeightedRow(
        id_, row.prompt_token_ids, row.token_ids, row.token_weights, row.mined, row.advantage, row.reward,
        row.group_mean, row.group_size, rival,
    )  # fmt: skip


def write(run_dir: Path, table: str, shard: int, rows: list[Row]) -> Receipt:
    return write_shard(
        run_dir, table=table, round_=1, shard=shard, attempt="a", rows=rows, seconds=0.0, metrics={"ranks": 1.0}
    )


def trained(model: str, name: str, rows: list[TrainRow] | RowTable) -> tuple[list[StepReport], dict[str, torch.Tensor]]:
    trainer = trainer_of(model, name)
    reports = trainer.train(rows, None)
    return reports, dict(trainer._parameters())


@pytest.mark.parametrize("name", OBJECTIVES)
def test_losses_and_weights_are_those_of_objects_to_the_last_bit(model: str, name: str, tmp_path: Path):
    rows = objective_rows(OBJECTIVES[name])
    rows = with_stale_reference(rows, trainer_of(model, name).reference_logprobs(rows))
    table = on_disk(tmp_path, rows)
    assert [*table] == rows
    (reports, weights), (expected, expected_weights) = trained(model, name, table), trained(model, name, rows)
    assert repr(reports) == repr(expected)
    assert len(reports) > 1
    for parameter, values in expected_weights.items():
        assert torch.equal(weights[parameter], values), parameter


def other_reference(row: TrainRow) -> TrainRow:
    assert row.reference is not None
    return replace(row, reference=ReferenceLogprobs(tuple(value - 1.0 for value in row.reference.response)))


@pytest.mark.parametrize(
    ("change", "resumes"),
    [
        (lambda row: row, True),
        (lambda row: replace(row, advantage=row.advantage / 2), False),
        (other_reference, False),
    ],
    ids=["the same", "other rows", "other references"],
)
def test_a_training_resumes_on_the_same_rows_and_references_alone(
    model: str, change: object, resumes: bool, tmp_path: Path
):
    assert callable(change)
    rows = with_reference(make_rows(), trainer_of(model).reference_logprobs(make_rows()))
    checkpoints = str(tmp_path / "checkpoints")
    stopped = trainer_of(model, checkpoint_every_steps=1)
    stop_after_checkpoint(stopped)
    with pytest.raises(StopAfter):
        stopped.train(on_disk(tmp_path / "first", rows), checkpoints)
    newest = newest_on_disk(tmp_path / "checkpoints")

    resumed = trainer_of(model, checkpoint_every_steps=1)
    changed = [change(row) for row in rows]
    steps: list[int] = []
    one_step = resumed._train_step
    resumed._train_step = lambda step, *rest: steps.append(step) or one_step(step, *rest)  # type: ignore[method-assign, func-returns-value]
    reports = resumed.train(on_disk(tmp_path / "second", changed), checkpoints, newest)
    assert steps == [*range(1 if resumes else 0, len(reports))]
    assert repr(reports) == repr(trained(model, "bcpg", changed)[0])
    assert SETTINGS.epochs * 3 == len(reports)
