"""The sections of training: the optimiser, adapters, kept snapshots."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from bcpg_cluster.config.section import Section


class LoraConfig(Section):
    """Low-rank adapters (LoRA) are trained instead of whole weights. They are merged into the snapshot after every round, so
    that engines, pushes and exports see an ordinary model; the next round starts with fresh ones. Wants a learning rate some
    ten times that of full training.

    Attributes:
        rank: inner size of an adapter's two matrices.
        alpha: an adapter's output is scaled by ``alpha / rank``.
        dropout: on an adapter's input, in training steps only.
        target_modules: ``all-linear`` is every linear layer but the output head; or a list of names, or of last parts of
            names (``q_proj``).
    """

    rank: int = Field(16, ge=1)
    alpha: float = Field(32.0, gt=0)
    dropout: float = Field(0.0, ge=0, lt=1)
    target_modules: Literal["all-linear"] | tuple[str, ...] = "all-linear"

    @field_validator("target_modules")
    @classmethod
    def _some_target(cls, targets: str | tuple[str, ...]) -> str | tuple[str, ...]:
        if not targets or any(not target.strip() for target in targets):
            raise ValueError("target_modules names at least one layer, and no name is empty; 'all-linear' takes all")
        return targets


class TrainConfig(Section):
    """One round's training; the fields are those of ``stages.train.protocol.TrainSettings`` (its objective: ``objective``)."""

    kind: Literal["deepspeed", "torch", "fake"] = "deepspeed"
    learning_rate: float = Field(5e-7, gt=0)
    min_learning_rate: float = Field(2.5e-7, ge=0)
    warmup_ratio: float = Field(0.03, ge=0, lt=1)
    weight_decay: float = Field(0.0, ge=0)
    adam_betas: tuple[float, float] = (0.9, 0.95)
    grad_clip: float = Field(1.0, gt=0)
    epochs: int = Field(1, ge=1)
    batch_sequences: int = Field(512, ge=1)
    micro_batch_tokens: int = Field(8192, ge=1)
    packing: Literal["padded", "packed"] = "padded"
    early_stop_nats: float = Field(0.5, ge=0)
    early_stop_window: int = Field(20, ge=1)
    checkpoint_every_steps: int = Field(0, ge=0)
    logprob_chunk_tokens: int = Field(1024, ge=1)
    zero_stage: Literal[0, 1, 2, 3] = 2
    dtype: Literal["float32", "bfloat16"] = "float32"
    gradient_checkpointing: bool = False
    lora: LoraConfig | None = None
    attention: Literal["auto", "eager", "sdpa", "flash_attention_2"] = "auto"
    deepspeed: dict[str, Any] = Field(default_factory=dict)
    group_timeout_s: float = Field(600.0, gt=0)

    @model_validator(mode="after")
    def _schedule_falls(self) -> TrainConfig:
        if self.min_learning_rate > self.learning_rate:
            raise ValueError(
                f"min_learning_rate {self.min_learning_rate} is above learning_rate {self.learning_rate}; "
                "the cosine schedule goes down from learning_rate to min_learning_rate"
            )
        return self


class SnapshotsConfig(Section):
    """Which snapshots are kept: the base, the best by sampled accuracy, and the newest ``keep_last``."""

    keep_last: int = Field(2, ge=1)
