"""How rows lie in a forward decides the time, never the result: packed against padded, the area cut against full rectangles."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from bcpg_cluster.stages.train.batching import MicroBatch, RowSize, split_rows
from bcpg_cluster.stages.train.forward import loss_part_names, micro_batch_loss
from bcpg_cluster.stages.train.protocol import TrainRow
from bcpg_cluster.stages.train.step_plan import row_size
from bcpg_cluster.stages.train.telemetry import StepSums
from bcpg_cluster.stages.train.torch_trainer import TorchTrainer
from benchmarks.measure import interleave, ratios, summarise
from scripts.gpu_check.bench import Bench, require
from scripts.gpu_check.shapes import mixed_rows, random_model, shape, step_settings

MEAN_NATS = {"float32": 1e-3, "bfloat16": 0.05}  # as the trainer's own proof (stages/train/layout/packing_proof.py)
RELATIVE_LOSS = {"float32": 1e-4, "bfloat16": 2e-3}


def check_packing(bench: Bench) -> None:
    """Log-probs and the loss of a step, packed and padded."""
    of = shape(bench.is_small)
    model, rows = random_model(of, bench.shared / "model"), mixed_rows(of)
    dtype = "bfloat16" if bench.is_gpu else "float32"
    attention, why = packed_attention(bench)
    bench.note(attention=attention, attention_why=why, dtype=dtype, tokens=num_tokens(rows))
    seen: dict[str, Any] = {}
    trainer = TorchTrainer(bench.device)
    for packing in ("padded", "packed"):
        settings = replace(step_settings(of, dtype), packing=packing, attention=attention)
        trainer.open(model, settings)
        reference = trainer.reference_logprobs(rows)
        (report,) = trainer.train(rows, None)
        trainer.open(model, settings)
        seconds = bench.seconds(lambda: trainer.train(rows, None))
        seen[packing] = (reference, report)
        bench.note(**{f"{packing}: loss": report.loss, f"{packing}: step_s": seconds})
    (padded, first), (packed, second) = seen["padded"], seen["packed"]
    off = [abs(a - b) for i in padded for a, b in zip(padded[i].response, packed[i].response, strict=True)]
    mean, loss = sum(off) / len(off), abs(second.loss / first.loss - 1)
    bench.note(mean_off_nats=mean, max_off_nats=max(off), loss_off_relative=loss)
    bench.note(padded_over_packed_s=bench.figures["padded: step_s"] / bench.figures["packed: step_s"])
    require(mean <= MEAN_NATS[dtype], f"packed log-probs are off by {mean:.3g} nats on average")
    require(loss <= RELATIVE_LOSS[dtype], f"the packed loss is off by {loss:.3g} of itself")


def packed_attention(bench: Bench) -> tuple[str, str]:
    """The attention to pack with, and why that one."""
    if not bench.is_gpu:
        return "auto", "no GPU: transformers' default, which masks across sequences"
    if importlib.util.find_spec("flash_attn") is None:
        return (
            "auto",
            "flash-attn is not installed: transformers' default, which masks across sequences and saves no time",
        )
    return "flash_attention_2", "flash-attn is installed"


def check_area_cut(bench: Bench) -> None:
    """The loss, the tokens computed and the time of the trainer's micro-batches, and of rectangles filled to the budget."""
    of = shape(bench.is_small)
    rows = mixed_rows(of)
    dtype = "bfloat16" if bench.is_gpu else "float32"
    sizes = [row_size(row) for row in rows]
    (area,) = split_rows(sizes, range(len(rows)), of.micro_batch_tokens, 1)
    cuts = {"area": area, "rectangle": full_rectangles(sizes, of.micro_batch_tokens)}
    bench.note(dtype=dtype, tokens=num_tokens(rows))
    for name, cut in cuts.items():
        bench.note(**{f"{name}: tokens computed": computed_tokens(sizes, cut), f"{name}: forwards": len(cut)})
    trainer = TorchTrainer(bench.device)
    trainer.open(random_model(of, bench.shared / "model"), step_settings(of, dtype))
    losses = {name: pass_over(trainer, rows, cut) for name, cut in cuts.items()}
    off = abs(losses["area"] / losses["rectangle"] - 1)
    bench.note(**{f"{name}: loss": loss for name, loss in losses.items()}, loss_off_relative=off)
    require(off <= RELATIVE_LOSS[dtype], f"the loss depends on the cut: off by {off:.3g} of itself")
    more = bench.figures["area: tokens computed"] - bench.figures["rectangle: tokens computed"]
    require(more <= 0, f"the area cut computes {more} tokens more than full rectangles")
    seconds = interleave(
        lambda _: bench.seconds(lambda: pass_over(trainer, rows, cuts["rectangle"])),
        lambda _: bench.seconds(lambda: pass_over(trainer, rows, cuts["area"])),
        repeats=3,
    )
    bench.note(rectangle_s=summarise(seconds[0]), area_s=summarise(seconds[1]), rectangle_over_area_s=ratios(*seconds))


def full_rectangles(sizes: Sequence[RowSize], budget: int) -> tuple[MicroBatch, ...]:
    """Micro-batches, longest rows first, each as many rows as fit into the budget with its longest: the cut without a plan."""
    order = sorted(range(len(sizes)), key=lambda row: -sizes[row].tokens)
    cut, start = [], 0
    while start < len(order):
        number = max(1, budget // sizes[order[start]].tokens)
        cut.append(tuple(order[start : start + number]))
        start += number
    return tuple(cut)


def computed_tokens(sizes: Sequence[RowSize], cut: Sequence[MicroBatch]) -> int:
    """Padding included."""
    return sum(len(micro_batch) * max(sizes[row].tokens for row in micro_batch) for micro_batch in cut)


def num_tokens(rows: Sequence[TrainRow]) -> int:
    """Without padding."""
    return sum(row_size(row).tokens for row in rows)


def pass_over(trainer: TorchTrainer, rows: Sequence[TrainRow], cut: Sequence[MicroBatch]) -> float:
    """Forward and backward over all micro-batches; the sum of the row losses. The weights stay as they are."""
    policy, settings, device = trainer._opened(), trainer._settings, trainer._device
    sums, total = StepSums(loss_part_names(settings.objective), device), torch.zeros((), device=device)
    policy.zero_grad(set_to_none=True)
    for micro_batch in cut:
        with trainer._forward_dtype():
            loss = micro_batch_loss(policy, [rows[row] for row in micro_batch], settings, sums, device)
        loss.backward()
        total += loss.detach()
    return float(total)
