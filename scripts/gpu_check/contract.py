"""The trainers' contract on the device: what tests/contract asks of a trainer on a CPU, against the reference trainer there."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from bcpg_cluster.stages.push.snapshot import verify_snapshot
from bcpg_cluster.stages.train.protocol import TrainerRank, TrainSettings
from bcpg_cluster.stages.train.torch_trainer import TorchTrainer
from benchmarks.measure import free_port
from scripts.gpu_check.bench import Bench, require
from tests.trainer_contract import (
    OBJECTIVES,
    SETTINGS,
    SHARDED,
    exercise,
    exercise_failures,
    largest_difference,
    make_model,
    make_rows,
    objective_rows,
    parameters,
    report_faults,
    with_stale_reference,
)


@dataclass(frozen=True, slots=True)
class Bounds:
    """How far a trainer may be from the reference in fp32 on the CPU.

    Attributes:
        logprobs: nats, of a token before any step.
        reports: relative or absolute, of every number of every step.
        scores: nats, of a token after the last step.
        weights: mean absolute difference of all weights after the last step.
    """

    logprobs: float
    reports: float
    scores: float
    weights: float


CPU_FLOAT32 = Bounds(2e-5, 2e-5, 2e-4, 1e-6)
GPU_FLOAT32 = Bounds(1e-4, 1e-3, 2e-3, 1e-4)  # other kernels, other sums; chosen before any GPU was seen
BFLOAT16 = Bounds(0.2, 0.05, 0.5, 1e-3)  # reports and weights as in tests/contract; seen on a CPU: 0.045 and 0.19 nats


def bounds(bench: Bench, dtype: str) -> Bounds:
    """Of the dtype on the bench's device."""
    if dtype == "bfloat16":
        return BFLOAT16
    return GPU_FLOAT32 if bench.is_gpu else CPU_FLOAT32


def check_torch_trainer(bench: Bench, dtype: str) -> None:
    """A round, failures and resuming by plain torch on the device; in fp32 every objective too."""
    torch.set_num_threads(1)
    model, wanted = reference(bench.folder)
    trainer = TorchTrainer(bench.device)
    settings = replace(SETTINGS, dtype=dtype, zero_stage=9)  # only names directories
    run_contract(bench, trainer, model, settings, wanted)
    if dtype == "float32":
        for name in OBJECTIVES:
            compare_objective(bench, trainer, model, name)


def check_zero(bench: Bench, stage: int) -> None:
    """One DeepSpeed rank at a ZeRO stage: a round, failures and resuming in fp32, then a round in bf16."""
    torch.set_num_threads(1)
    from bcpg_cluster.stages.train.deepspeed.trainer import DeepSpeedRank

    model, wanted = reference(bench.folder)
    trainer = DeepSpeedRank(0, 1, "127.0.0.1", free_port(), timeout_s=60)
    settings = replace(SETTINGS, zero_stage=stage, deepspeed=SHARDED)
    run_contract(bench, trainer, model, settings, wanted)
    compare_round(bench, trainer, model, replace(settings, dtype="bfloat16"), wanted)
    trainer.close()


def reference(folder: Path) -> tuple[str, dict[str, Any]]:
    """A tiny model, and what the reference trainer does with it in fp32 on the CPU."""
    model = make_model(folder / "model", tied=True)
    trainer = TorchTrainer("cpu")
    trainer.open(model, SETTINGS)
    torch.save(trainer.reference_logprobs(make_rows()), folder / "reference.pt")
    return model, exercise(trainer, model, SETTINGS, folder, str(folder / "snapshot-reference"))


def run_contract(
    bench: Bench, trainer: TrainerRank, model: str, settings: TrainSettings, wanted: dict[str, Any]
) -> None:
    """A round like the reference's; divergence that changes nothing; a training that is stopped and resumes."""
    seen = compare_round(bench, trainer, model, settings, wanted)
    failures = exercise_failures(trainer, model, settings, bench.folder, is_first=True)
    for name in ("nan loss", "inf gradient"):
        require(failures[name] == "unchanged", f"{name}: {failures[name]}, and the weights were to stay unchanged")
    require(failures["faults"] == (), f"a sound step checkpoint is called damaged: {failures['faults']}")
    require(any(failures["cut"]), "a step checkpoint that was cut is not called damaged")
    bound = bounds(bench, settings.dtype).reports
    for name in ("resumed", "fell back"):
        faults = report_faults(failures[name], seen["reports"], bound)
        require(not faults, f"{name}: {faults[:3]}")
        bench.note(**{f"{name} bit for bit": failures[name] == seen["reports"]})


def compare_round(
    bench: Bench, trainer: TrainerRank, model: str, settings: TrainSettings, wanted: dict[str, Any]
) -> dict[str, Any]:
    """Reference pass, training, scores, push and snapshot, against the reference trainer's."""
    bound, name = bounds(bench, settings.dtype), settings.dtype
    snapshot = str(bench.folder / f"snapshot-{name}")
    seen = exercise(trainer, model, settings, bench.folder, snapshot)
    logprobs = partial(_responses, number=len(make_rows()))
    off = largest_difference(logprobs(seen["reference"]), logprobs(wanted["reference"]))
    scores_off = largest_difference(seen["scores"], wanted["scores"])
    found, expected = parameters(snapshot), parameters(bench.folder / "snapshot-reference")
    require(found.keys() == expected.keys(), "the snapshot has other parameters")
    apart = torch.cat([(found[key].float() - expected[key].float()).abs().flatten() for key in expected])
    bench.note(
        **{
            f"{name}: log-probs off by, nats": off,
            f"{name}: scores after training off by, nats": scores_off,
            f"{name}: weights off by, mean": float(apart.mean()),
            f"{name}: weights off by, max": float(apart.max()),
            f"{name}: loss off by, max": max(
                abs(a.loss - b.loss) for a, b in zip(seen["reports"], wanted["reports"], strict=False)
            ),
            f"{name}: train_s": seen["train_s"],
        }
    )
    require(off <= bound.logprobs, f"{name}: reference log-probs are off by {off:.3g} nats")
    faults = report_faults(seen["reports"], wanted["reports"], bound.reports)
    require(not faults, f"{name}: {len(faults)} numbers of the reports differ: {faults[:3]}")
    require(scores_off <= bound.scores, f"{name}: scores after training are off by {scores_off:.3g} nats")
    require(float(apart.mean()) <= bound.weights, f"{name}: weights are off by {float(apart.mean()):.3g} on average")
    require(
        verify_snapshot(snapshot) == seen["digests"],
        f"{name}: the snapshot's digests are not those it was said to have",
    )
    require(seen["push"] == (wanted["specs"], seen["digests"]), f"{name}: what was pushed is not what was saved")
    require(seen["broken push"][0] == "a receiver is gone", f"{name}: a broken push ended as {seen['broken push'][0]}")
    return seen


def compare_objective(bench: Bench, trainer: TrainerRank, model: str, name: str) -> None:
    """A training by an objective on the device and on the CPU."""
    settings = replace(OBJECTIVES[name], deepspeed=None)
    plain = TorchTrainer("cpu")
    plain.open(model, settings)
    rows = objective_rows(settings)
    rows = with_stale_reference(rows, plain.reference_logprobs(rows))
    wanted = plain.train(rows, None)
    trainer.open(model, settings)
    faults = report_faults(trainer.train(rows, None), wanted, bounds(bench, "float32").reports)
    require(not faults, f"objective {name}: {len(faults)} numbers of the reports differ: {faults[:3]}")
    bench.note(objectives=[*bench.figures.get("objectives", []), name])


def _responses(found: dict[int, Any], number: int) -> list[tuple[float, ...]]:
    return [found[index].response for index in range(number)]
