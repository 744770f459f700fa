"""What every trainer does alike: load a policy, forward to token log-probs, sum up a micro-batch's losses.

The reference log-probs, the training step and the scores all come from :func:`response_logprobs`, so they share one
forward with the same kernels and dtype, and Delta is 0 before the first step but for rounding (docs/method.md).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel
from transformers.utils.logging import disable_progress_bar

from bcpg_cluster.errors import ConfigError, DataError, TrainingDivergedError
from bcpg_cluster.stages.push.digest import is_finite
from bcpg_cluster.stages.push.protocol import TensorSpec
from bcpg_cluster.stages.push.wire import sent_dtype
from bcpg_cluster.stages.train.layout.packing_proof import prove_packing
from bcpg_cluster.stages.train.layout.row_layout import SequenceLayout, TokenPair, lay_out
from bcpg_cluster.stages.train.logprobs import token_logprobs
from bcpg_cluster.stages.train.lora import Adapter, adapter_matrices, add_adapters, plain_name
from bcpg_cluster.stages.train.objective import Objective
from bcpg_cluster.stages.train.objectives import objective_loss
from bcpg_cluster.stages.train.objectives.batch import LossBatch, sequence_drift
from bcpg_cluster.stages.train.protocol import ReferenceLogprobs, TrainRow, TrainSettings
from bcpg_cluster.stages.train.telemetry import StepSums, TokenClasses

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}

# Models that change their logits after the head: a head of our own would silently compute something else.
_LOGIT_CHANGES = ("final_logit_softcapping", "logit_scale", "logits_scaling")


class LogprobHead(nn.Linear):
    """An output head that answers with the log-probs of given tokens instead of logits.

    A module in the head's place and under its name, so that whatever hooks modules (ZeRO-3 gathers a module's weights
    around its forward and backward) treats it as the head it replaces.
    """

    @classmethod
    def of(cls, head: nn.Linear) -> LogprobHead:
        """A head with the very parameters of ``head``: a tied weight stays tied."""
        new = cls(head.in_features, head.out_features, bias=head.bias is not None, device="meta")
        new.weight, new.bias = head.weight, head.bias
        return new

    def forward(  # type: ignore[override]
        self, hidden: Tensor, targets: Tensor, chunk_tokens: int
    ) -> tuple[Tensor, Tensor]:
        """Log-probs [N] of ``targets`` [N] after states ``hidden`` [N, H], and entropies [N], in nats; see
        :func:`token_logprobs`.
        """
        return token_logprobs(hidden, self.weight, self.bias, targets, chunk_tokens=chunk_tokens)


class Policy(nn.Module):
    """A causal LM whose forward gives the log-probs of chosen tokens. Parameters keep their checkpoint names.

    Attributes:
        adapters: by the checkpoint name of the weight each of them changes; none when whole weights are trained.
    """

    def __init__(self, causal_lm: PreTrainedModel, adapters: Mapping[str, Adapter] | None = None) -> None:
        super().__init__()
        self.adapters = adapters or {}
        changes = [name for name in _LOGIT_CHANGES if getattr(causal_lm.config, name, None) not in (None, 1, 1.0)]
        head = causal_lm.get_output_embeddings()
        if changes or not isinstance(head, nn.Linear):
            raise DataError(
                f"{type(causal_lm).__name__} computes its logits as "
                f"{', '.join(changes) if changes else type(head).__name__}",
                rule="the trainer supports models whose logits are a plain linear head",
                remedy="use a Qwen2, Qwen3, Llama, Mistral or similar model",
            )
        causal_lm.set_output_embeddings(LogprobHead.of(head))
        self.causal_lm = causal_lm
        self._dropouts = [module for module in causal_lm.modules() if isinstance(module, nn.Dropout) and module.p > 0]
        for layer in self._dropouts:
            layer.eval()

    def forward(
        self, input_ids: Tensor, position_ids: Tensor | None, sources: Tensor, targets: Tensor, chunk_tokens: int
    ) -> tuple[Tensor, Tensor]:
        """Log-probs [N] of ``targets`` [N] after the flat positions ``sources`` [N] of ``input_ids`` [Q, S], and the
        entropies [N] of the distributions they are drawn from (detached), in nats. ``position_ids`` [1, S] say that
        the one row holds several sequences (see ``row_layout``).
        """
        # No attention mask: padding is on the right, so under causal attention no real token ever sees it, and
        # without a mask the fast causal kernels serve every batch. No cache: only then are packed sequences found.
        hidden = self.causal_lm.base_model(
            input_ids=input_ids, position_ids=position_ids, use_cache=False
        ).last_hidden_state  # [Q, S, H]
        # Only the states that predict response tokens meet the vocabulary: prompts and padding cost nothing there.
        chosen = hidden.flatten(0, 1).index_select(0, sources)  # [N, H]
        found: tuple[Tensor, Tensor] = self.causal_lm.get_output_embeddings()(chosen, targets, chunk_tokens)
        return found

    def checkpoint_parameters(self) -> list[tuple[str, nn.Parameter]]:
        """Every distinct parameter with its checkpoint name, in model order; a tied head is listed once, adapters are not."""
        own = {id(matrix) for adapter in self.adapters.values() for matrix in (adapter.down, adapter.up)}
        named = self.causal_lm.named_parameters()
        return [(plain_name(name, self.adapters), parameter) for name, parameter in named if id(parameter) not in own]

    def trained_parameters(self) -> list[nn.Parameter]:
        """What the optimiser is given: the adapters, or everything."""
        return [parameter for parameter in self.parameters() if parameter.requires_grad]

    @contextmanager
    def dropout(self, seed: int) -> Iterator[None]:
        """The adapters' dropout acts inside, drawn from ``seed``. Elsewhere it is off: scores are those of the policy."""
        if self._dropouts:
            torch.manual_seed(seed)
        for layer in self._dropouts:
            layer.train()
        try:
            yield
        finally:
            for layer in self._dropouts:
                layer.eval()


def load_policy(model_path: str, settings: TrainSettings, dtype: torch.dtype) -> Policy:
    """Read a checkpoint directory for training: dropout off, gradient checkpointing and adapters as set."""
    disable_progress_bar()  # in the log of an actor, or of a page's server, it is only noise
    config = AutoConfig.from_pretrained(model_path, trust_remote_code=settings.trust_remote_code)
    for name, value in vars(config).items():
        if isinstance(value, float) and ("dropout" in name or name.endswith("pdrop")):
            setattr(config, name, 0.0)  # reference and policy must be the same function (docs/method.md)
    attention = None if settings.attention == "auto" else settings.attention
    causal_lm = AutoModelForCausalLM.from_pretrained(
        model_path,
        config=config,
        dtype=dtype,
        attn_implementation=attention,
        trust_remote_code=settings.trust_remote_code,
    )
    for name, parameter in causal_lm.named_parameters():
        if not is_finite(parameter):
            raise DataError(
                f"{model_path} has values that are not finite in {name}",
                rule="weights are finite numbers",
                remedy="give a checkpoint from before its training diverged, or copy it again",
            )
    adapters = add_adapters(causal_lm, settings.lora, settings.seed) if settings.lora else {}
    causal_lm.train()  # gradient checkpointing acts in training mode only
    if settings.gradient_checkpointing:
        # Reentrant: ZeRO-3 frees weights after the forward, and the non-reentrant kind compares what it finds in the
        # recomputation with what was there before.
        causal_lm.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": True})
        if adapters:
            # The embedding is frozen, and a reentrant block gives no gradients unless its input wants one.
            causal_lm.enable_input_require_grads()
    return Policy(causal_lm, adapters)


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
"""A :class:`Policy`, or an engine around one."""


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


def parameter_specs(
    policy: Policy, shapes: Callable[[nn.Parameter], tuple[int, ...]], wire_dtype: str
) -> list[TensorSpec]:
    """The specs of all parameters in model order; matrices travel in ``wire_dtype`` whatever the compute dtype."""
    whole = ((name, shapes(parameter)) for name, parameter in policy.checkpoint_parameters())
    return [TensorSpec(name, sent_dtype(wire_dtype, shape), shape) for name, shape in whole]


def adapter_specs(
    policy: Policy, shapes: Callable[[nn.Parameter], tuple[int, ...]], wire_dtype: str
) -> list[TensorSpec]:
    """The specs of all adapters' matrices in model order. They travel in float32 whatever ``wire_dtype`` says: engines merge them
    before they round.
    """
    return [TensorSpec(name, "float32", shapes(matrix)) for name, matrix in adapter_matrices(policy.adapters)]
