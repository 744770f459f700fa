"""What every trainer does alike: load a policy, pad rows, forward to token log-probs, sum up a micro-batch.

The reference log-probs, the training step and the scores all come from :func:`response_logprobs`, so they share one
forward with the same kernels and dtype, and Delta is exactly 0 before the first step (docs/method.md).
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from bcpg_cluster.engines.protocols import StepReport, TensorSpec, TrainRow, TrainSettings
from bcpg_cluster.errors import ConfigError, DataError, TrainingDivergedError
from bcpg_cluster.method.batching import StepPlan, learning_rate, plan_training
from bcpg_cluster.method.losses import bcpg_loss, token_logprobs

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

    def forward(self, hidden: Tensor, targets: Tensor, chunk_tokens: int) -> Tensor:  # type: ignore[override]
        """Log-probs [N] in nats of ``targets`` [N] after states ``hidden`` [N, H]; see :func:`token_logprobs`."""
        return token_logprobs(hidden, self.weight, self.bias, targets, chunk_tokens=chunk_tokens)


class Policy(nn.Module):
    """A causal LM whose forward gives the log-probs of chosen tokens. Parameters keep their checkpoint names."""

    def __init__(self, causal_lm: PreTrainedModel) -> None:
        super().__init__()
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

    def forward(self, input_ids: Tensor, sources: Tensor, targets: Tensor, chunk_tokens: int) -> Tensor:
        """Log-probs [N] of ``targets`` [N] after the flat positions ``sources`` [N] of ``input_ids`` [B, S]."""
        # No attention mask: padding is on the right, so under causal attention no real token ever sees it, and
        # without a mask the fast causal kernels serve every batch.
        hidden = self.causal_lm.base_model(input_ids=input_ids, use_cache=False).last_hidden_state  # [B, S, H]
        # Only the states that predict response tokens meet the vocabulary: prompts and padding cost nothing there.
        chosen = hidden.flatten(0, 1).index_select(0, sources)  # [N, H]
        logprobs: Tensor = self.causal_lm.get_output_embeddings()(chosen, targets, chunk_tokens)
        return logprobs

    def checkpoint_parameters(self) -> list[tuple[str, nn.Parameter]]:
        """Every distinct parameter with its checkpoint name, in model order; a tied head is listed once."""
        return list(self.causal_lm.named_parameters())


def load_policy(model_path: str, settings: TrainSettings, dtype: torch.dtype) -> Policy:
    """Read a checkpoint for training: dropout off, gradient checkpointing as set."""
    if not Path(model_path, "config.json").is_file():
        raise DataError(
            f"{model_path} holds no config.json",
            rule="a model is a Hugging Face checkpoint directory",
            remedy="give the directory that holds config.json, the tokenizer and the weights",
        )
    config = AutoConfig.from_pretrained(model_path)
    for name, value in vars(config).items():
        if isinstance(value, float) and ("dropout" in name or name.endswith("pdrop")):
            setattr(config, name, 0.0)  # reference and policy must be the same function (docs/method.md)
    causal_lm = AutoModelForCausalLM.from_pretrained(model_path, config=config, dtype=dtype)
    causal_lm.train()  # gradient checkpointing acts in training mode only
    if settings.gradient_checkpointing:
        # Reentrant: ZeRO-3 frees weights after the forward, and the non-reentrant kind compares what it finds in the
        # recomputation with what was there before.
        causal_lm.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": True})
    return Policy(causal_lm)


def policy_dtype(settings: TrainSettings) -> torch.dtype:
    """The compute dtype of the settings."""
    if settings.dtype not in DTYPES:
        raise ConfigError(
            f"train dtype {settings.dtype!r}",
            rule=f"one of {', '.join(DTYPES)}",
            remedy="use float32 on CPUs, bfloat16 on GPUs",
        )
    return DTYPES[settings.dtype]


@dataclass(frozen=True, slots=True)
class PaddedRows:
    """B rows as tensors: S tokens after padding, T response tokens after padding, N response tokens in all.

    Attributes:
        input_ids: [B, S], prompt and response, padded on the right.
        mask: [B, T], true on response tokens.
        sources: [N], flat position in ``input_ids`` of the token before each response token.
        targets: [N], the response tokens, row after row.
    """

    input_ids: Tensor
    mask: Tensor
    sources: Tensor
    targets: Tensor

    def scatter(self, values: Tensor) -> Tensor:
        """[N] values, row after row, as [B, T] with zeros in the padding; differentiable."""
        zeros = values.new_zeros(self.mask.shape)
        return zeros.masked_scatter(self.mask, values)


def pad_sequences(sequences: Sequence[tuple[tuple[int, ...], tuple[int, ...]]], device: torch.device) -> PaddedRows:
    """Pad (prompt ids, response ids) pairs. No pairs give one stand-in token, for a forward that only keeps step."""
    if not sequences:
        sequences = [((0,), (0,))]
    longest = max(len(prompt) + len(response) for prompt, response in sequences)
    input_ids = torch.zeros(len(sequences), longest, dtype=torch.long)
    mask = torch.zeros(len(sequences), max(len(response) for _, response in sequences), dtype=torch.bool)
    sources: list[int] = []
    targets: list[int] = []
    for index, (prompt, response) in enumerate(sequences):
        if not prompt:
            raise DataError("a row without a prompt token", rule="the first response token needs a state before it",
                            remedy="check the chat template")  # fmt: skip
        input_ids[index, : len(prompt) + len(response)] = torch.tensor((*prompt, *response))
        mask[index, : len(response)] = True
        first = index * longest + len(prompt) - 1
        sources.extend(range(first, first + len(response)))
        targets.extend(response)
    return PaddedRows(
        input_ids.to(device),
        mask.to(device),
        torch.tensor(sources, device=device),
        torch.tensor(targets, device=device),
    )


Forward = Callable[[Tensor, Tensor, Tensor, int], Tensor]
"""A :class:`Policy`, or an engine around one."""


def response_logprobs(forward: Forward, padded: PaddedRows, chunk_tokens: int) -> Tensor:
    """Log-probs [B, T] in nats, fp32, of the responses; zeros in the padding."""
    return padded.scatter(forward(padded.input_ids, padded.sources, padded.targets, chunk_tokens))


def score_sequences(
    forward: Forward,
    sequences: Sequence[tuple[tuple[int, ...], tuple[int, ...]]],
    chunk_tokens: int,
    device: torch.device,
) -> list[tuple[float, ...]]:
    """Log-probs of the responses as numbers, by one forward and without gradients."""
    with torch.no_grad():
        padded = pad_sequences(sequences, device)
        logprobs = response_logprobs(forward, padded, chunk_tokens).float().cpu()
    return [tuple(logprobs[index, : len(response)].tolist()) for index, (_, response) in enumerate(sequences)]


def score_in_micro_batches(
    forward: Forward,
    sequences: Sequence[tuple[tuple[int, ...], tuple[int, ...]]],
    micro_batches: Iterable[Sequence[int]],
    chunk_tokens: int,
    device: torch.device,
) -> dict[int, tuple[float, ...]]:
    """Scores by index of the sequences that the micro-batches name; an empty one costs a forward that keeps step."""
    scores: dict[int, tuple[float, ...]] = {}
    for indices in micro_batches:
        found = score_sequences(forward, [sequences[index] for index in indices], chunk_tokens, device)
        scores.update(zip(indices, found, strict=True))
    return scores


class StepSums:
    """Additive telemetry of one optimiser step; its tensor can be summed over ranks as it is."""

    _LOSS, _DELTA, _TOKENS = 0, 1, 3  # _DELTA and _TOKENS hold wrong, then right

    def __init__(self, device: torch.device) -> None:
        self.values = torch.zeros(5, dtype=torch.float64, device=device)

    def add(self, loss: Tensor, delta: Tensor, num_tokens: Tensor, right: Tensor) -> None:
        """Add sequences: losses, Delta_i, lengths and whether the answer was right, all [B]."""
        self.values[self._LOSS] += loss.sum().double()
        self.values[self._DELTA : self._DELTA + 2].index_add_(0, right.long(), delta.double())
        self.values[self._TOKENS : self._TOKENS + 2].index_add_(0, right.long(), num_tokens.double())

    def report(self, *, step: int, num_steps: int, num_sequences: int, grad_norm: float, rate: float) -> StepReport:
        """The step's report; call it on sums over all ranks."""
        loss, *rest = self.values.tolist()
        delta_wrong, delta_right, tokens_wrong, tokens_right = rest
        return StepReport(
            step=step,
            num_steps=num_steps,
            loss=loss / num_sequences,
            grad_norm=grad_norm,
            learning_rate=rate,
            delta_per_token_right=delta_right / tokens_right if tokens_right else 0.0,
            delta_per_token_wrong=delta_wrong / tokens_wrong if tokens_wrong else 0.0,
            num_sequences=num_sequences,
            num_tokens=int(tokens_right + tokens_wrong),
        )


def micro_batch_loss(
    forward: Forward, rows: Sequence[TrainRow], settings: TrainSettings, sums: StepSums, device: torch.device
) -> Tensor:
    """Forward a micro-batch and add it to ``sums``; returns the *sum* of its sequence losses (Eq. 6).

    Without rows the forward still runs and the loss is 0 times its output: it touches every parameter, so gradient
    hooks fire on every rank alike.
    """
    padded = pad_sequences([(row.prompt_token_ids, row.token_ids) for row in rows], device)
    logprobs = response_logprobs(forward, padded, settings.logprob_chunk_tokens)  # [B, T]
    if not rows:
        return logprobs.sum() * 0.0

    def scattered(values: Iterable[tuple[float, ...]]) -> Tensor:
        flat = torch.tensor([value for row in values for value in row], dtype=logprobs.dtype, device=device)
        return padded.scatter(flat)

    losses = bcpg_loss(
        logprobs,
        scattered(row.reference_logprobs for row in rows),
        scattered(row.token_weights for row in rows),
        torch.tensor([row.advantage for row in rows], dtype=logprobs.dtype, device=device),
        padded.mask,
        tau=settings.tau,
    )
    right = torch.tensor([row.reward > 0.5 for row in rows], device=device)
    sums.add(losses.loss.detach(), losses.delta, losses.num_tokens, right)
    return losses.loss.sum()


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

    The fingerprint covers rows, settings, world size and start weights: a step checkpoint of another training (or of
    another number of ranks, whose shards do not fit) is then never resumed.
    """
    for index, row in enumerate(rows):
        lengths = {len(row.token_ids), len(row.token_weights), len(row.reference_logprobs)}
        if len(lengths) != 1 or not row.token_ids:
            raise DataError(
                f"row {index}: {len(row.token_ids)} tokens, {len(row.token_weights)} weights, "
                f"{len(row.reference_logprobs)} reference log-probs",
                rule="a training row has response tokens, and a weight and a reference log-prob for each of them",
                remedy="compute the reference log-probs with reference_logprobs() before train()",
            )
    steps = plan_training(
        [len(row.prompt_token_ids) + len(row.token_ids) for row in rows],
        epochs=settings.epochs,
        batch_sequences=settings.batch_sequences,
        micro_batch_tokens=settings.micro_batch_tokens,
        world_size=world_size,
        seed=settings.seed,
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
    for row in rows:
        digest.update(repr(row).encode())
    return TrainingPlan(tuple(steps), tuple(rates), digest.hexdigest())


def _weights_identity(model_path: str) -> str:
    """What tells start weights apart: a snapshot's digests, or names and sizes of a downloaded model's files."""
    digests = Path(model_path, "digests.json")
    if digests.is_file():
        return hashlib.sha256(digests.read_bytes()).hexdigest()
    return repr(sorted((file.name, file.stat().st_size) for file in Path(model_path).glob("*.safetensors")))


def check_finite(step: int, loss_sum: float, grad_norm: float | None = None) -> None:
    """Raise :class:`TrainingDivergedError` unless the step's numbers are finite (``None`` is not looked at)."""
    if not math.isfinite(loss_sum):
        raise TrainingDivergedError(f"step {step}: the loss is {loss_sum}; no parameter was changed by this step")
    if grad_norm is not None and not math.isfinite(grad_norm):
        raise TrainingDivergedError(f"step {step}: the gradient norm is {grad_norm}; no parameter was changed by it")


def parameter_specs(policy: Policy, shapes: Callable[[nn.Parameter], tuple[int, ...]]) -> list[TensorSpec]:
    """The specs of all parameters in model order; they travel as float32 whatever the compute dtype."""
    return [TensorSpec(name, "float32", shapes(parameter)) for name, parameter in policy.checkpoint_parameters()]
