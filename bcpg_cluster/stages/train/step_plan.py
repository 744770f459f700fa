"""A round's training laid out before its first step: rows checked, steps and rates fixed, a name for the whole."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from bcpg_cluster.errors import DataError
from bcpg_cluster.stages.train.batching import RowSize, StepPlan, learning_rate, plan_training
from bcpg_cluster.stages.train.early_stop import falls_without_end
from bcpg_cluster.stages.train.protocol import StepReport, TrainRow, TrainSettings


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
    for index, row in enumerate(rows):
        _check_row(index, row, settings)
    objective = settings.objective
    steps = plan_training(
        [row_size(row) for row in rows],
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
    for row in rows:
        digest.update(repr(row).encode())
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


def _check_row(index: int, row: TrainRow, settings: TrainSettings) -> None:
    reference = row.reference
    if reference is None:
        raise DataError(
            f"row {index} has no reference log-probs",
            rule="a training row has a reference log-prob for each of its tokens",
            remedy="compute them with reference_logprobs() before train()",
        )
    lengths = {
        "tokens": len(row.token_ids),
        "weights": len(row.token_weights),
        "mined flags": len(row.mined),
        "reference log-probs": len(reference.response),
    }
    if len(set(lengths.values())) != 1 or not row.token_ids:
        raise DataError(
            f"row {index}: {', '.join(f'{count} {name}' for name, count in lengths.items())}",
            rule="a training row has response tokens, and one of each of the others for every token",
            remedy="compute the reference log-probs with reference_logprobs() on these very rows",
        )
    if len(row.rival_token_ids) != len(reference.rival):
        raise DataError(
            f"row {index}: a rival of {len(row.rival_token_ids)} tokens, {len(reference.rival)} reference log-probs",
            rule="a rival has a reference log-prob for each of its tokens",
            remedy="compute the reference log-probs with reference_logprobs() on these very rows",
        )
    if settings.objective.rows == "pairs" and not row.rival_token_ids:
        raise DataError(
            f"row {index} has no rival",
            rule=f"the objective {settings.objective.name!r} trains on pairs of a right and a wrong response",
            remedy="weigh the round again with this objective",
        )


def _weights_identity(model_path: str) -> str:
    """What tells start weights apart: a snapshot's digests, or names and sizes of a downloaded model's files."""
    digests = Path(model_path, "digests.json")
    if digests.is_file():
        return hashlib.sha256(digests.read_bytes()).hexdigest()
    return repr(sorted((file.name, file.stat().st_size) for file in Path(model_path).glob("*.safetensors")))
