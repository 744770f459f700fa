"""The sections of training and of the weights it makes: adapters, the push, kept snapshots."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from bcpg_cluster.config.identity import Decides
from bcpg_cluster.config.section import Section


class LoraConfig(Section):
    """Low-rank adapters (LoRA), trained instead of whole weights.

    They are merged into the snapshot after every round, so that engines and exports see an ordinary model; the next round starts
    with fresh ones. A push can carry them alone (``push.carries``). They need a learning rate some ten times that of full training.
    """

    rank: int = Field(16, ge=1)
    """Inner size of an adapter's two matrices."""
    alpha: float = Field(32.0, gt=0)
    """An adapter's output is scaled by ``alpha / rank``."""
    dropout: float = Field(0.0, ge=0, lt=1)
    """Dropout on an adapter's input, in training steps only."""
    target_modules: Literal["all-linear"] | tuple[str, ...] = "all-linear"
    """Layers that get an adapter: ``all-linear`` is every linear layer but the output head; or a list of names, or of last
    parts of names (``q_proj``)."""

    @field_validator("target_modules")
    @classmethod
    def _some_target(cls, targets: str | tuple[str, ...]) -> str | tuple[str, ...]:
        if not targets or any(not target.strip() for target in targets):
            raise ValueError(
                "target_modules names at least one layer, and no name is empty; 'all-linear' means every layer"
            )
        return targets


class TrainConfig(Section):
    """One round's training; its loss is chosen in the section `objective`."""

    kind: Literal["deepspeed", "torch", "fake"] = "deepspeed"
    """The trainer: DeepSpeed on all ranks; ``torch`` is the one-process reference; ``fake`` is for tests."""
    learning_rate: float = Field(5e-7, gt=0)
    """Peak of the cosine schedule."""
    min_learning_rate: float = Field(2.5e-7, ge=0)
    """Last value of the cosine schedule."""
    warmup_ratio: float = Field(0.03, ge=0, lt=1)
    """Share of the steps that warm up linearly, rounded up."""
    weight_decay: float = Field(0.0, ge=0)
    """AdamW's weight decay."""
    adam_betas: tuple[float, float] = (0.9, 0.95)
    """AdamW's decay rates of the first and second moment."""
    grad_clip: float = Field(1.0, gt=0)
    """Largest norm of the whole gradient; a larger one is scaled down."""
    epochs: int = Field(1, ge=1)
    """Passes over the round's rows, each in a new order."""
    batch_sequences: int = Field(512, ge=1)
    """Responses with a gradient in one optimiser step, over all ranks (a pair holds two)."""
    micro_batch_tokens: int = Field(8192, ge=1)
    """Most tokens in one forward pass on one rank; with ``padded``, rows times the longest."""
    packing: Literal["padded", "packed"] = "padded"
    """``padded`` makes a rectangle of a micro-batch's sequences; ``packed`` joins them into one long row, with position ids
    that restart and no attention across sequences (needs flash attention to be fast)."""
    early_stop_nats: float = Field(0.5, ge=0)
    """Stop training when the right responses' mean log-prob change per token, over the last ``early_stop_window`` steps, is
    below minus this and still falling (``stages.train.early_stop``); 0 is off."""
    early_stop_window: int = Field(20, ge=1)
    """Steps over which ``early_stop_nats`` looks back."""
    checkpoint_every_steps: Annotated[int, Decides.NEVER] = Field(0, ge=0)
    """Optimiser steps between checkpoints, from which an interrupted training resumes; 0 keeps none."""
    logprob_chunk_tokens: int = Field(1024, ge=1)
    """Tokens in a chunk of the vocabulary projection, so that [T, V] never exists."""
    zero_stage: Literal[0, 1, 2, 3] = 2
    """DeepSpeed's ZeRO stage; ``bfloat16`` needs at least 1."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Data type of the computation; master weights, log-softmax and sums are float32 either way."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory for long sequences, more compute."""
    lora: Annotated[LoraConfig | None, Decides.WHEN_SET] = None
    """``null`` trains all weights; a section, even ``{}``, trains adapters."""
    attention: Literal["auto", "eager", "sdpa", "flash_attention_2"] = "auto"
    """transformers' ``attn_implementation``; ``auto`` leaves the choice to it, ``flash_attention_2`` needs the package flash-attn
    and a GPU."""
    deepspeed: dict[str, Any] = Field(default_factory=dict)
    """DeepSpeed's own config, passed through untouched and checked by DeepSpeed's parser."""
    group_timeout_s: Annotated[float, Decides.NEVER] = Field(600.0, gt=0)
    """Seconds for one collective of the trainer group."""
    progress_timeout_s: Annotated[float, Decides.NEVER] = Field(1800.0, gt=0)
    """Most seconds in which a trainer rank may get nowhere; a micro-batch, optimiser step or step checkpoint counts as stuck
    earlier, after ten times the longest so far and at least a minute. The group is then started again."""
    heartbeat_timeout_s: Annotated[float, Decides.NEVER] = Field(60.0, gt=0)
    """Seconds in which a busy trainer rank must answer the driver, as a stopped process does not; then the group is started
    again."""

    @model_validator(mode="after")
    def _schedule_falls(self) -> TrainConfig:
        if self.min_learning_rate > self.learning_rate:
            raise ValueError(
                f"min_learning_rate {self.min_learning_rate} is above learning_rate {self.learning_rate}; "
                "the cosine schedule falls from learning_rate to min_learning_rate"
            )
        return self


class PushConfig(Section):
    """How new weights reach the rollout engines, and how their arrival is proven."""

    backend: Literal["gloo", "nccl", "disk"] = "gloo"
    """The way: ``gloo`` is this project's own, for CPUs; ``nccl`` is vLLM's own, for GPUs; ``disk`` has engines reload the
    snapshot."""
    carries: Annotated[Literal["weights", "adapters"], Decides.WHEN_SET] = "weights"
    """What is sent: ``weights``, all of them, with adapters merged in; or, with ``train.lora``, the round's ``adapters`` alone,
    which engines merge into the weights they hold."""
    deadline_s: Annotated[float, Decides.NEVER] = Field(300.0, gt=0)
    """Seconds for the whole push; members still stuck are then killed, and their replacements load the snapshot."""
    num_canaries: int = Field(8, ge=1)
    """Responses whose log-probs prove a push."""
    tolerance_nats: float = Field(1e-3, gt=0)
    """Largest difference per token between the trainer's and an engine's log-prob of a canary, and the smallest between old
    and new weights for a canary to tell them apart."""


class SnapshotsConfig(Section):
    """Which snapshots are kept: the base, the best by sampled accuracy, and the newest."""

    keep_last: int = Field(2, ge=1)
    """Newest snapshots whose files are kept, beside the base and the best."""
