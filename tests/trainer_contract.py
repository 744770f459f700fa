"""The contract of a trainer as calls and comparisons: small rows, a tiny model, what is asked of a rank, and what must agree.

tests/contract/test_trainers.py asks it of every trainer on CPUs, scripts/gpu_check of those on a GPU. No pytest here: a machine
with a GPU to check may lack it.
"""

from __future__ import annotations

import hashlib
import math
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

from bcpg_cluster.errors import PushError, TrainingDivergedError
from bcpg_cluster.records import StepCheckpoint
from bcpg_cluster.stages.push.adapters.versions import Carried
from bcpg_cluster.stages.push.digest import tensor_digest
from bcpg_cluster.stages.push.protocol import TensorSpec
from bcpg_cluster.stages.push.snapshot import read_parameters
from bcpg_cluster.stages.push.wire import wire_digest
from bcpg_cluster.stages.train.objective import Bcpg, Dpo, Grpo, Kto, Rft, Topr
from bcpg_cluster.stages.train.protocol import ReferenceLogprobs, StepReport, TrainerRank, TrainRow, TrainSettings
from bcpg_cluster.stages.train.step_checkpoints.record import RECORD, check_step_checkpoint, checkpoint_name

VOCABULARY = 61
SETTINGS = TrainSettings(
    objective=Bcpg(tau=0.05),
    learning_rate=2e-3,
    min_learning_rate=1e-3,
    weight_decay=0.01,
    grad_clip=0.5,  # below the gradients' norms, so that clipping acts
    epochs=2,
    batch_sequences=5,  # 11 rows: steps of 5, 5 and 1, so one rank of two has nothing to do in the last
    micro_batch_tokens=40,
    logprob_chunk_tokens=7,
    seed=3,
)
# Without these the tiny model would be kept whole on every rank, and reduced in one bucket.
SHARDED = {"zero_optimization": {"stage3_param_persistence_threshold": 0, "reduce_bucket_size": 3000}}
# Every kind of rows: samples, right ones, pairs, mismatches; every kind of divisor; packed, and over gathered weights.
OBJECTIVES = {
    "bcpg": SETTINGS,
    "bcpg packed": replace(SETTINGS, packing="packed", zero_stage=1),
    "rft": replace(SETTINGS, objective=Rft()),
    "dpo": replace(SETTINGS, objective=Dpo(beta=0.3, nll_weight=0.5)),
    "dpo packed": replace(SETTINGS, objective=Dpo(), packing="packed", zero_stage=3),
    "grpo": replace(SETTINGS, objective=Grpo(kl_weight=0.1)),
    "kto": replace(SETTINGS, objective=Kto(beta=0.5)),
    "kto packed": replace(SETTINGS, objective=Kto(), packing="packed", zero_stage=3),
    "topr": replace(SETTINGS, objective=Topr(length="token")),
}


def make_rows(seed: int = 0, count: int = 11) -> list[TrainRow]:
    """Rows of unequal lengths, right and wrong, with mined tokens in wrong ones."""
    draw = torch.Generator().manual_seed(seed)

    def ids(low: int, high: int) -> tuple[int, ...]:
        length = int(torch.randint(low, high, (1,), generator=draw))
        return tuple(torch.randint(1, VOCABULARY, (length,), generator=draw).tolist())

    rows = []
    for index in range(count):
        response = ids(1, 24)
        right = index % 3 == 0
        weights = tuple(0.5 if not right and token % 2 else 1.0 for token in response)
        rows.append(
            TrainRow(
                prompt_token_ids=ids(2, 9),
                token_ids=response,
                token_weights=weights,
                advantage=0.6 if right else -0.4,
                reward=1.0 if right else 0.0,
                group_mean=0.4,
                group_size=5,
                mined=tuple(weight != 1.0 for weight in weights),
            )
        )
    return rows


def objective_rows(settings: TrainSettings) -> list[TrainRow]:
    """The rows of :func:`make_rows` as the settings' objective takes them; a mismatch is missing here and there."""
    rows = make_rows()
    match settings.objective.rows:
        case "right":
            return [row for row in rows if row.reward]
        case "pairs":
            return [replace(row, rival_token_ids=rows[i + 1].token_ids) for i, row in enumerate(rows) if row.reward]
        case "mismatched":
            return [
                row if i % 4 == 1 else replace(row, rival_token_ids=rows[i - 1].token_ids) for i, row in enumerate(rows)
            ]
    return rows


def with_stale_reference(rows: list[TrainRow], reference: dict[int, ReferenceLogprobs]) -> list[TrainRow]:
    """Rows with a reference that the policy has left already: ratios are not 1, clips and tapers act, z0 is above 0."""
    draw = torch.Generator().manual_seed(7)

    def shifted(values: tuple[float, ...], by: float) -> tuple[float, ...]:
        noise = torch.rand(len(values), generator=draw) - 0.5
        return tuple((torch.tensor(values) + noise * 0.8 + by).tolist())

    return [
        replace(row, reference=ReferenceLogprobs(shifted(found.response, 0.05), shifted(found.rival, -0.1)))
        for row, found in ((row, reference[index]) for index, row in enumerate(rows))
    ]


def make_model(path: Path, *, tied: bool) -> str:
    torch.manual_seed(1)
    config = Qwen2Config(
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        vocab_size=VOCABULARY,
        max_position_embeddings=128,
        tie_word_embeddings=tied,
        initializer_range=0.2,
    )
    Qwen2ForCausalLM(config).save_pretrained(path)
    (path / "tokenizer_config.json").write_text('{"chat_template": "stand-in"}')
    return str(path)


def with_reference(rows: list[TrainRow], reference: dict[int, ReferenceLogprobs]) -> list[TrainRow]:
    return [replace(row, reference=reference[index]) for index, row in enumerate(rows)]


def with_nan(rows: list[TrainRow]) -> list[TrainRow]:
    return [replace(rows[0], advantage=math.nan), *rows[1:]]


def break_gradient(trainer: Any) -> None:
    """Make one parameter's gradient infinite on this rank; the loss stays finite."""
    trainer._policy.trained_parameters()[0].register_hook(lambda gradient: torch.full_like(gradient, math.inf))


class StopAfter(Exception):
    """Stands for the kill of a process right after a step checkpoint."""


def stop_after_checkpoint(trainer: Any) -> None:
    """Make ``trainer`` die after the first checkpoint that follows."""
    write = trainer._write_checkpoint

    def write_and_die(*args: Any) -> None:
        write(*args)
        trainer._write_checkpoint = write
        raise StopAfter

    trainer._write_checkpoint = write_and_die


def newest_on_disk(checkpoints: Path) -> StepCheckpoint:
    """What the driver would have noted of the newest step checkpoint."""
    record = max(checkpoints.glob("step-*")) / RECORD
    return StepCheckpoint(int(record.parent.name[5:]), hashlib.sha256(record.read_bytes()).hexdigest())


class RecordingSender:
    """Stands for the weight sender: notes what it is given, or fails after ``fails_after`` tensors."""

    def __init__(self, fails_after: int | None = None) -> None:
        self.fails_after = fails_after
        self.digests: dict[str, str] = {}
        self.wire: dict[str, str] = {}

    def send(self, tensors: Iterator[tuple[TensorSpec, torch.Tensor]]) -> None:
        for spec, tensor in tensors:
            if len(self.digests) == self.fails_after:
                raise PushError("a receiver is gone")
            assert (tuple(tensor.shape), str(tensor.dtype)) == (spec.shape, f"torch.{spec.dtype}")
            self.digests[spec.name], self.wire[spec.name] = tensor_digest(tensor), wire_digest(tensor)

    def leave(self) -> None:
        pass


def push(
    trainer: Any, sender: RecordingSender, carried: Carried = "weights"
) -> tuple[list[TensorSpec] | str, dict[str, str]]:
    """Push through ``sender``; what came back, and what the sender (rank 0's) saw."""
    trainer._sender = sender
    try:
        return trainer.push_weights(carried), sender.digests
    except PushError as error:
        return str(error), sender.digests
    finally:
        trainer.leave_push_group()


def exercise(
    trainer: TrainerRank, model: str, settings: TrainSettings, directory: Path, snapshot: str
) -> dict[str, Any]:
    """One round's calls; what came of them."""
    rows = make_rows()
    seen: dict[str, Any] = {}
    began = time.perf_counter()
    trainer.open(model, settings)
    seen["open_s"] = time.perf_counter() - began
    seen["reference"] = trainer.reference_logprobs(rows)
    shared = directory / "reference.pt"
    rows = with_reference(rows, torch.load(shared, weights_only=False))
    seen["specs"] = trainer.push_specs()
    began = time.perf_counter()
    seen["reports"] = trainer.train(rows, None)
    seen["train_s"] = time.perf_counter() - began
    seen["scores"] = trainer.score_tokens([(row.prompt_token_ids, row.token_ids) for row in rows[:3]])
    seen["broken push"] = push(trainer, RecordingSender(fails_after=1))
    sender = RecordingSender()
    seen["push"] = push(trainer, sender)
    written = trainer.save_snapshot(snapshot)
    seen["digests"] = None if written is None else dict(written.stored)
    assert written is None or written.wire == sender.wire  # what is noted with a snapshot is what a push sends
    seen["adapter specs"] = trainer.push_specs("adapters")
    seen["broken adapter push"] = push(trainer, RecordingSender(fails_after=1), "adapters")
    seen["adapter push"] = push(trainer, RecordingSender(), "adapters")
    seen["adapter digests"] = trainer.adapter_digests()
    return seen


def exercise_failures(
    trainer: TrainerRank, model: str, settings: TrainSettings, directory: Path, *, is_first: bool
) -> dict[str, Any]:
    """Divergence, then a training that is stopped after a checkpoint and goes on in a new engine."""
    rows = with_reference(make_rows(), torch.load(directory / "reference.pt", weights_only=False))
    seen: dict[str, Any] = {}
    name_of = f"{settings.zero_stage}{'-lora' if settings.lora else ''}"
    probe = [(rows[0].prompt_token_ids, rows[0].token_ids)]
    for name in ("nan loss", "inf gradient"):
        trainer.open(model, settings)
        before = trainer.score_tokens(probe)
        if name == "inf gradient" and is_first:  # on one rank only: the others must stop with it
            break_gradient(trainer)
        try:
            trainer.train(with_nan(rows) if name == "nan loss" else rows, None)
            seen[name] = "no error"
        except TrainingDivergedError:
            seen[name] = "unchanged" if before == trainer.score_tokens(probe) else "changed"
    checkpoints = directory / f"checkpoints-{name_of}"
    settings = replace(settings, checkpoint_every_steps=2)
    trainer.open(model, settings)
    stop_after_checkpoint(trainer)
    try:
        trainer.train(rows, str(checkpoints))
    except StopAfter:
        seen["kept"] = sorted(path.name for path in checkpoints.iterdir())
    stopped_at = trainer.newest_checkpoint() or newest_on_disk(checkpoints)
    rank = getattr(trainer, "_rank", 0)
    seen["faults"] = check_step_checkpoint(checkpoints / checkpoint_name(stopped_at.num_steps), stopped_at, rank)
    trainer.open(model, settings)
    seen["resumed"] = trainer.train(rows, str(checkpoints), stopped_at)
    seen["kept_at_end"] = sorted(path.name for path in checkpoints.iterdir())
    trainer.save_snapshot(str(directory / f"resumed-{name_of}"))
    # Every rank's own file of the newest is cut: all of them fall back to the one before.
    newest = newest_on_disk(checkpoints)
    damaged = checkpoints / checkpoint_name(newest.num_steps)
    own = next(iter(damaged.glob(f"*zero_pp_rank_{rank}_*optim_states.pt")), min(damaged.glob("*.pt")))
    if is_first or f"rank_{rank}_" in own.name:
        os.truncate(own, own.stat().st_size - 1)
    trainer.open(model, settings)  # where the ranks meet
    seen["cut"] = [fault.file == own.name for fault in check_step_checkpoint(damaged, newest, rank)]
    seen["fell back"] = trainer.train(rows, str(checkpoints), stopped_at)
    written = trainer.save_snapshot(str(directory / f"fell-back-{name_of}"))
    seen["fell back digests"] = None if written is None else dict(written.stored)
    # Another training must not pick the checkpoint up.
    other, newest = replace(settings, epochs=1), newest_on_disk(checkpoints)
    trainer.open(model, other)
    seen["other"] = trainer.train(rows, str(checkpoints), newest)
    return seen


def parameters(path: Path | str) -> dict[str, torch.Tensor]:
    return dict(read_parameters(str(path)))


def report_faults(found: Sequence[StepReport], wanted: Sequence[StepReport], tolerance: float) -> list[str]:
    """Where two trainings' reports differ by more than ``tolerance``, relative or absolute; none when they agree."""
    if len(found) != len(wanted):
        return [f"{len(found)} steps instead of {len(wanted)}"]
    faults = []
    for mine, theirs in zip(found, wanted, strict=True):
        for field, value in asdict(mine).items():
            other = asdict(theirs)[field]
            pairs = [(value[key], other.get(key)) for key in value] if isinstance(value, dict) else [(value, other)]
            if isinstance(value, dict) and value.keys() != other.keys():
                faults.append(f"step {theirs.step}: {field} has parts {sorted(value)} instead of {sorted(other)}")
            elif any(not is_near(one, another, tolerance) for one, another in pairs):
                faults.append(f"step {theirs.step}: {field} is {value!r} instead of {other!r}")
    return faults


def is_near(value: float | None, wanted: float | None, tolerance: float) -> bool:
    """Equal up to the tolerance, relative to ``wanted`` or absolute; counts exactly. ``None`` equals only itself, NaN nothing."""
    if value is None or wanted is None or isinstance(wanted, int):
        return value == wanted
    return abs(value - wanted) <= tolerance * max(1.0, abs(wanted))


def largest_difference(found: Sequence[Sequence[float]], wanted: Sequence[Sequence[float]]) -> float:
    """Over all values of lists of the same shape, absolute."""
    pairs = [pair for mine, theirs in zip(found, wanted, strict=True) for pair in zip(mine, theirs, strict=True)]
    return max(abs(a - b) for a, b in pairs)
