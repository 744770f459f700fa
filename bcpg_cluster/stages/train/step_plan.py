"""A round's training laid out before its first step: rows checked, steps and rates fixed, a name for the whole."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from bcpg_cluster.stages.train.batching import RowSize, StepPlan, learning_rate, plan_training
from bcpg_cluster.stages.train.early_stop import falls_without_end
from bcpg_cluster.stages.train.objective import Objective
from bcpg_cluster.stages.train.protocol import StepReport, TrainRow, TrainSettings
from bcpg_cluster.stages.train.table.row_checks import check_row
from bcpg_cluster.stages.train.table.row_table import RowTable


@dataclass(frozen=True, slots=True)
class TrainingPlan:
    """A round's training, wholly laid out: its steps, their learning rates, and what tells it from any other."""

    steps: tuple[StepPlan, ...]
    rates: tuple[float, ...]
    fingerprint: str


def lay_out_training(
    rows: Sequence[TrainRow], settings: TrainSettings, world_size: int, model_path: str
) -> TrainingPlan:
    """Check the rows and lay out every step.

    The fingerprint covers rows, settings (the objective and the packing among them), world size, start weights and the way
    steps are cut: a step checkpoint of another training (or of another number of ranks, whose shards do not fit) is then
    never resumed.

    Raises:
        DataError: a row lacks what the objective needs.
    """
    objective = settings.objective
    steps = plan_training(
        _checked_sizes(rows, objective),
        epochs=settings.epochs,
        rows_per_step=max(1, settings.batch_sequences // objective.sequences_per_row),
        micro_batch_tokens=settings.micro_batch_tokens,
        world_size=world_size,
        seed=settings.seed,
        packing=settings.packing,
        divides_by_tokens=objective.divides_by_tokens,
    )
    rates = [
        learning_rate(
            step,
            len(steps),
            peak=settings.learning_rate,
            minimum=settings.min_learning_rate,
            warmup_ratio=settings.warmup_ratio,
        )
        for step in range(len(steps))
    ]
    # How often checkpoints are kept does not change the training.
    digest = hashlib.sha256(json.dumps(asdict(replace(settings, checkpoint_every_steps=0)), sort_keys=True).encode())
    digest.update(f"|{world_size}|{_weights_identity(model_path)}|".encode())
    if world_size > 1:
        # Ranks were not always kept in step: one training has one plan, so that it can be repeated.
        digest.update(b"in step|")
    for part in _identity(rows):
        digest.update(part.encode())
    return TrainingPlan(tuple(steps), tuple(rates), digest.hexdigest())


def row_size(row: TrainRow) -> RowSize:
    """Tokens of the row's response with its prompt, and of its rival with the same prompt."""
    sequences = [len(row.prompt_token_ids) + len(row.token_ids)]
    if row.rival_token_ids:
        sequences.append(len(row.prompt_token_ids) + len(row.rival_token_ids))
    return RowSize(tuple(sequences), len(row.token_ids))


def should_stop(reports: Sequence[StepReport], settings: TrainSettings) -> bool:
    """Whether training ends after these steps; decided from reduced sums, so alike on all ranks and after a resume."""
    deltas = [report.delta_per_token_right for report in reports]
    return falls_without_end(deltas, settings.early_stop_nats, settings.early_stop_window)


def _checked_sizes(rows: Sequence[TrainRow], objective: Objective) -> Sequence[RowSize]:
    """Of every row; none of a table is built for it."""
    if isinstance(rows, RowTable):
        rows.check(objective)
        return rows.sizes()
    for index, row in enumerate(rows):
        check_row(index, row, objective)
    return [row_size(row) for row in rows]


def _identity(rows: Sequence[TrainRow]) -> Iterable[str]:
    """What tells rows and references from others: of a table the checksums of its files, else all that the rows say."""
    return [rows.identity()] if isinstance(rows, RowTable) else map(repr, rows)


def _weights_identity(model_path: str) -> str:
    """What tells start weights apart: a snapshot's digests, or names and sizes of a downloaded model's files."""
    digests = Path(model_path, "digests.json")
    if digests.is_file():
        return hashlib.sha256(digests.read_bytes()).hexdigest()
    return repr(sorted((file.name, file.stat().st_size) for file in Path(model_path).glob("*.safetensors")))
