"""What every trainer does alike: forward to token log-probs, sum up a micro-batch's losses.

The reference log-probs, the training step and the scores all come from :func:`response_logprobs`, so they share one
forward with the same kernels and dtype, and Delta is 0 before the first step but for rounding (docs/method.md).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from bcpg_cluster.errors import ConfigError, TrainingDivergedError
from bcpg_cluster.stages.train.layout.packing_proof import prove_packing
from bcpg_cluster.stages.train.layout.row_layout import SequenceLayout, TokenPair, lay_out
from bcpg_cluster.stages.train.objective import Objective
from bcpg_cluster.stages.train.objectives import objective_loss
from bcpg_cluster.stages.train.objectives.batch import LossBatch, sequence_drift
from bcpg_cluster.stages.train.protocol import ReferenceLogprobs, TrainRow, TrainSettings
from bcpg_cluster.stages.train.telemetry import StepSums, TokenClasses

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def policy_dtype(settings: TrainSettings) -> torch.dtype:
    """The compute dtype of the settings."""
    if settings.dtype not in DTYPES:
        raise ConfigError(
            f"train dtype {settings.dtype!r}",
            rule=f"one of {', '.join(DTYPES)}",
            remedy="use float32 on CPUs, bfloat16 on GPUs",
        )
    return DTYPES[settings.dtype]


def dropout_seed(settings: TrainSettings, step: int, rank: int) -> int:
    """Of the adapters' dropout in one step on one rank, so that a resumed training draws what it would have drawn."""
    return (settings.seed * 1_000_003 + step) * 4099 + rank


Forward = Callable[[Tensor, Tensor | None, Tensor, Tensor, int], tuple[Tensor, Tensor]]
"""A :class:`~bcpg_cluster.stages.train.loading.policy.Policy`, or an engine around one."""


def response_logprobs(forward: Forward, layout: SequenceLayout, settings: TrainSettings) -> tuple[Tensor, Tensor]:
    """Log-probs [Q, T] in nats, fp32, of the responses, with zeros in the padding; entropies [N], detached."""
    logprobs, entropy = forward(
        layout.input_ids, layout.position_ids, layout.sources, layout.targets, settings.logprob_chunk_tokens
    )
    return layout.scatter(logprobs), entropy


def score_sequences(
    forward: Forward, sequences: Sequence[TokenPair], settings: TrainSettings, device: torch.device
) -> list[tuple[float, ...]]:
    """Log-probs of the responses as numbers, by one forward and without gradients."""
    with torch.no_grad():
        layout = lay_out(sequences, settings.packing, device)
        logprobs = response_logprobs(forward, layout, settings)[0].float().cpu()
    return [tuple(logprobs[index, : len(response)].tolist()) for index, (_, response) in enumerate(sequences)]


def check_packing(forward: Forward, rows: Sequence[TrainRow], settings: TrainSettings, device: torch.device) -> None:
    """Where rows are packed, prove that this model keeps them apart; raises like :func:`prove_packing`.

    Two forwards, on every rank alike.
    """
    if settings.packing == "packed":
        prove_packing(
            lambda sequences, packing: score_sequences(forward, sequences, replace(settings, packing=packing), device),
            responses(rows[:2]),
            settings.dtype,
        )


def reference_of_rows(
    forward: Forward,
    rows: Sequence[TrainRow],
    micro_batches: Iterable[Sequence[int]],
    settings: TrainSettings,
    device: torch.device,
) -> dict[int, ReferenceLogprobs]:
    """lp_ref by index of the rows that the micro-batches name; an empty one costs a forward that keeps step."""
    found: dict[int, ReferenceLogprobs] = {}
    for indices in micro_batches:
        chosen = [rows[index] for index in indices]
        rivalled = [index for index, row in zip(indices, chosen, strict=True) if row.rival_token_ids]
        sequences = [*responses(chosen), *rivals(chosen)]
        scores = score_sequences(forward, sequences, settings, device)
        of_rivals = dict(zip(rivalled, scores[len(indices) :], strict=True))
        for index, score in zip(indices, scores, strict=False):  # the rivals' scores follow
            found[index] = ReferenceLogprobs(score, of_rivals.get(index, ()))
    return found


def responses(rows: Iterable[TrainRow]) -> list[TokenPair]:
    """The rows' own sequences."""
    return [(row.prompt_token_ids, row.token_ids) for row in rows]


def rivals(rows: Iterable[TrainRow]) -> list[TokenPair]:
    """The rivals of rows that have one, each after its row's own prompt."""
    return [(row.prompt_token_ids, row.rival_token_ids) for row in rows if row.rival_token_ids]


def needs_drift(objective: Objective) -> bool:
    """Whether every step starts with a pass over its rivals, without gradients (:func:`drift_sums`)."""
    return objective.rows == "mismatched"


def drift_sums(
    forward: Forward,
    rows: Sequence[TrainRow],
    micro_batches: Iterable[Sequence[int]],
    settings: TrainSettings,
    device: torch.device,
) -> Tensor:
    """[2] fp64: sum of Delta over the rivals of a step's rows on this rank, and how many rivals there are.

    Both add up over ranks, so the mean (:func:`mean_drift`) does not depend on how the step is split. Rows without a
    rival are left out.
    """
    sums = torch.zeros(2, dtype=torch.float64, device=device)
    with torch.no_grad():
        for indices in micro_batches:
            chosen = [row for row in (rows[index] for index in indices) if row.rival_token_ids]
            layout = lay_out(rivals(chosen), settings.packing, device)
            logprobs, _ = response_logprobs(forward, layout, settings)
            if chosen:
                reference = _scattered(layout, [_reference(row).rival for row in chosen])
                sums[0] += sequence_drift(logprobs, reference, layout.mask).double().sum()
                sums[1] += len(chosen)
    return sums


def mean_drift(sums: Tensor) -> float:
    """Mean Delta in nats of sums over all ranks; 0 without any rival."""
    total, count = sums.tolist()
    return total / count if count else 0.0


def micro_batch_loss(
    forward: Forward,
    rows: Sequence[TrainRow],
    settings: TrainSettings,
    sums: StepSums,
    device: torch.device,
    step_drift: float = 0.0,
) -> Tensor:
    """Forward a micro-batch and add it to ``sums``; returns the *sum* of its row losses.

    The rivals of pairs are further sequences of the same forward. Without rows the forward still runs and the loss is
    0 times its output: it touches every parameter, so gradient hooks fire on every rank alike.
    """
    has_rivals = settings.objective.rows == "pairs"
    layout = lay_out([*responses(rows), *(rivals(rows) if has_rivals else [])], settings.packing, device)
    logprobs, entropy = response_logprobs(forward, layout, settings)  # [B or 2B, T], [N]
    if not rows:
        return logprobs.sum() * 0.0
    batch = _loss_batch(rows, layout, logprobs, has_rivals, step_drift)
    losses = objective_loss(batch, settings.objective)
    own = layout.mask[: len(rows)]
    mined = torch.zeros_like(own)
    mined[own] = torch.tensor([is_mined for row in rows for is_mined in row.mined], device=device)
    sums.add(batch, losses, TokenClasses.of(own, batch.reward > 0.5, mined), entropy)
    return losses.loss.sum()


def _loss_batch(
    rows: Sequence[TrainRow], layout: SequenceLayout, logprobs: Tensor, has_rivals: bool, step_drift: float
) -> LossBatch:
    """The rows as an objective sees them: own responses are the first B sequences of the layout, rivals the last B."""
    own, other = slice(0, len(rows)), slice(len(rows), None)
    references = [_reference(row) for row in rows]
    rival_references = [reference.rival for reference in references] if has_rivals else []
    reference = _scattered(layout, [*(reference.response for reference in references), *rival_references])
    weights = torch.zeros_like(reference[own])
    weights[layout.mask[own]] = weights.new_tensor([value for row in rows for value in row.token_weights])
    return LossBatch(
        logprobs=logprobs[own],
        reference=reference[own],
        mask=layout.mask[own],
        token_weights=weights,
        advantage=weights.new_tensor([row.advantage for row in rows]),
        reward=weights.new_tensor([row.reward for row in rows]),
        group_mean=weights.new_tensor([row.group_mean for row in rows]),
        rival_logprobs=logprobs[other] if has_rivals else None,
        rival_reference=reference[other] if has_rivals else None,
        rival_mask=layout.mask[other] if has_rivals else None,
        step_drift=step_drift,
    )


def _scattered(layout: SequenceLayout, values: Iterable[tuple[float, ...]]) -> Tensor:
    """Numbers of every response token, fp32, as [Q, T]."""
    flat = torch.tensor([value for of_sequence in values for value in of_sequence], dtype=torch.float32)
    return layout.scatter(flat.to(layout.mask.device))


def _reference(row: TrainRow) -> ReferenceLogprobs:
    if row.reference is None:
        raise RuntimeError("lay_out_training() comes first: it refuses rows without reference")
    return row.reference


def loss_part_names(objective: Objective) -> tuple[str, ...]:
    """The names of the loss's summands, which a rank without rows must know, too: those of one row of one token."""
    one = torch.zeros(1, 1)
    everywhere = torch.ones(1, 1, dtype=torch.bool)
    half = torch.full((1,), 0.5)
    row = LossBatch(one, one, everywhere, one + 1, half, one[0] + 1, half, one, one, everywhere)
    return tuple(objective_loss(row, objective).parts)


def check_finite(step: int, loss_sum: float, grad_norm: float | None = None) -> None:
    """Raise :class:`TrainingDivergedError` unless the step's numbers are finite (``None`` is not checked)."""
    if not math.isfinite(loss_sum):
        raise TrainingDivergedError(f"step {step}: the loss is {loss_sum}; no parameter was changed by this step")
    if grad_norm is not None and not math.isfinite(grad_norm):
        raise TrainingDivergedError(f"step {step}: the gradient norm is {grad_norm}; no parameter was changed by it")
