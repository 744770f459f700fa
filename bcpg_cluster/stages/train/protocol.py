"""What training asks of a trainer: the rows, the settings, the reports, and the calls of one rank."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from bcpg_cluster.cluster.liveness.rank_progress import ProgressReporter
from bcpg_cluster.records import StepCheckpoint
from bcpg_cluster.stages.push.adapters.versions import Carried
from bcpg_cluster.stages.push.protocol import PushGroup, SnapshotDigests, TensorSpec
from bcpg_cluster.stages.train.objective import Objective


@dataclass(frozen=True, slots=True)
class ReferenceLogprobs:
    """lp_ref of one training row, nats, fp32, by the trainer's own forward: of its response and of its rival (empty
    without one).
    """

    response: tuple[float, ...]
    rival: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class TrainRow:
    """One row as the trainer sees it; how it was made is not its business.

    Attributes:
        token_weights: beta_{i,j} of Eq. 7, one per response token.
        advantage: A_i = r_i - rbar over the verified samples of the whole group.
        reward, group_mean, group_size: the group statistics an objective may need.
        mined: which response tokens lie in mined steps (telemetry alone; ``token_weights`` decide).
        rival_token_ids: a second response to the same prompt, where the objective takes one (``stages.train.objective.Rows``):
            y- of a pair, or the mismatched response that KTO's drift is estimated from. Empty without one.
        reference: lp_ref; ``None`` until computed.
    """

    prompt_token_ids: tuple[int, ...]
    token_ids: tuple[int, ...]
    token_weights: tuple[float, ...]
    advantage: float
    reward: float
    group_mean: float
    group_size: int
    mined: tuple[bool, ...]
    rival_token_ids: tuple[int, ...] = ()
    reference: ReferenceLogprobs | None = None


@dataclass(frozen=True, slots=True)
class LoraSettings:
    """Adapters instead of whole weights (``stages.train.lora``).

    Attributes:
        rank: inner size of the two matrices of an adapter.
        alpha: an adapter's output is scaled by ``alpha / rank``.
        dropout: on an adapter's input, while it trains.
        target_modules: names, or last parts of names, of linear layers; ``None`` is all of them but the output head.
    """

    rank: int = 16
    alpha: float = 32.0
    dropout: float = 0.0
    target_modules: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class TrainSettings:
    """Everything one round's training needs besides the rows. Defaults: docs/method.md and its recommended gaps.

    Attributes:
        objective: the loss and its options.
        batch_sequences: responses with a gradient per optimiser step, over all ranks (a pair holds two).
        micro_batch_tokens: most padded tokens (rows x longest) of one forward on one rank; packed, most tokens.
        packing: ``padded`` makes a rectangle of a micro-batch's sequences; ``packed`` joins them into one long row, with
            position ids that restart and no attention across sequences (wants flash attention to be fast).
        early_stop_nats: training stops when the right responses' mean Delta per token, over the last
            ``early_stop_window`` steps, lies below minus this and still falls (0: never); see ``stages.train.early_stop``.
        min_learning_rate, warmup_ratio: cosine schedule from ``learning_rate`` after a linear warm-up.
        checkpoint_every_steps: 0 keeps no step checkpoints.
        logprob_chunk_tokens: tokens per chunk of the vocabulary projection, so that [T, V] never exists.
        lora: adapters are trained; ``None`` trains all weights.
        revision: of a start model that is a hub id; ``trust_remote_code`` lets transformers run code that comes with it.
        attention: transformers' ``attn_implementation``; ``auto`` leaves the choice to it. ``flash_attention_2`` needs the
            package flash-attn and a GPU.
        deepspeed: passed through to DeepSpeed's own config untouched (checked by DeepSpeed's parser).
    """

    objective: Objective
    learning_rate: float
    min_learning_rate: float
    warmup_ratio: float = 0.03
    weight_decay: float = 0.0
    adam_betas: tuple[float, float] = (0.9, 0.95)
    grad_clip: float = 1.0
    epochs: int = 1
    batch_sequences: int = 512
    micro_batch_tokens: int = 8192
    packing: Literal["padded", "packed"] = "padded"
    early_stop_nats: float = 0.5
    early_stop_window: int = 20
    seed: int = 0
    checkpoint_every_steps: int = 0
    logprob_chunk_tokens: int = 1024
    zero_stage: int = 2
    dtype: str = "float32"
    gradient_checkpointing: bool = False
    lora: LoraSettings | None = None
    revision: str | None = None
    trust_remote_code: bool = False
    attention: str = "auto"
    deepspeed: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class StepReport:
    """Telemetry of one optimiser step, already summed over ranks; ``None`` where a mean has nothing to run over.

    Attributes:
        loss: the step's mean loss; ``loss_parts`` are its summands by name.
        delta_per_token_right, _mined, _unmined: mean of lp - lp_ref in nats over the tokens of right responses, and over the
            mined and the other tokens of wrong ones (a pair's rival is a wrong response). ``_wrong`` is both of the latter.
        clipped_up, clipped_down: share of the tokens pushed up (down) whose gradient a clip or taper cut.
        entropy: mean entropy in nats of the policy's next-token distribution at response tokens.
        positive_mass: share of the absolute push (weight times advantage) that pushes up.
        num_sequences: responses with a gradient; ``num_tokens`` their tokens.
    """

    step: int
    num_steps: int
    loss: float
    loss_parts: dict[str, float]
    grad_norm: float
    learning_rate: float
    delta_per_token_right: float | None
    delta_per_token_wrong: float | None
    delta_per_token_mined: float | None
    delta_per_token_unmined: float | None
    clipped_up: float | None
    clipped_down: float | None
    entropy: float
    positive_mass: float | None
    num_sequences: int
    num_tokens: int


class TrainerRank(Protocol):
    """One rank of the trainer group. Every rank gets the same calls in the same order, and blocks in step with the rest.

    ``open(model_path)`` starts a round: weights from the checkpoint directory, fresh optimiser. Rows are given to all
    ranks alike; the step plan decides which a rank works on.

    Attributes:
        reports: of the present or last training, as its steps are done; read from another thread.
        progress: what it tells of every piece that it begins: a micro-batch, an optimiser step, a checkpoint, a parameter.
            Its host puts its own in the place of the one it was made with.
    """

    reports: list[StepReport]
    progress: ProgressReporter

    def open(self, model_path: str, settings: TrainSettings) -> None:
        """Load the round's start weights and make a fresh optimiser."""
        ...

    def reference_logprobs(self, rows: Sequence[TrainRow]) -> dict[int, ReferenceLogprobs]:
        """lp_ref of this rank's share of the rows, by row index; shares tile the rows over all ranks."""
        ...

    def train(
        self, rows: Sequence[TrainRow], checkpoint_dir: str | None, resume: StepCheckpoint | None = None
    ) -> list[StepReport]:
        """Run the step plan over ``rows`` (with ``reference``). Fewer reports than planned steps mean that the stated early stop
        ended it.

        Args:
            rows: of a run a :class:`~bcpg_cluster.stages.train.table.row_table.RowTable`, which reads a row when it is asked for:
                keep no more of them than a micro-batch.
            checkpoint_dir: where step checkpoints are kept; ``None`` keeps none.
            resume: the one there to resume from, whose files this rank has checked; ``None`` begins at step 0.

        Raises:
            TrainingDivergedError: a loss, a gradient or a weight is not finite; the weights are then not usable.
            RunDirectoryError: the disk does not take a step checkpoint.
        """
        ...

    def newest_checkpoint(self) -> StepCheckpoint | None:
        """The newest step checkpoint of the present training; called from another thread. It stays on disk until two more were
        asked for.
        """
        ...

    def save_snapshot(self, path: str) -> SnapshotDigests | None:
        """Write a Hugging Face checkpoint directory (rank 0; the others take part in gathering and return ``None``).

        Returns:
            Digests of every parameter, as written and as :meth:`push_weights` will send it.
        """
        ...

    def join_push_group(self, group: PushGroup) -> None:
        """Meet the receivers as rank 0 of the push group (other trainer ranks return at once)."""
        ...

    def adapter_digests(self) -> dict[str, str] | None:
        """sha256 hex digest of every matrix of the present adapters, by name (rank 0; the others take part in gathering and return
        ``None``); none where whole weights are trained.
        """
        ...

    def push_weights(self, carried: Carried = "weights") -> list[TensorSpec]:
        """Send all parameters, or the adapters alone, packed, in the order of :meth:`push_specs`; every rank takes part in
        gathering.
        """
        ...

    def push_specs(self, carried: Carried = "weights") -> list[TensorSpec]:
        """What :meth:`push_weights` will send, in order; nothing is gathered."""
        ...

    def leave_push_group(self) -> None:
        """Drop the push group."""
        ...

    def score_tokens(self, sequences: Sequence[tuple[tuple[int, ...], tuple[int, ...]]]) -> list[tuple[float, ...]]:
        """Log-probs in nats of given responses under the present weights (every rank computes, all get the answer)."""
        ...

    def close(self) -> None:
        """Free everything, leave the training group."""
        ...
