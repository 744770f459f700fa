"""What the rest of the system asks of an engine. Each vendor is one file behind one of these.

Engines are *thread-safe and blocking*: two threads may call ``generate`` at once and share one continuous batch, which is
how an actor keeps the next lease in flight. Control calls (version, push, close) may come from other threads while work
is under way. Engines speak records and plain numbers; they know nothing of Ray, files of the store, or configs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

from bcpg_cluster.method.objective import Objective
from bcpg_cluster.records import ErrorType, StopReason, VerdictStatus


@dataclass(frozen=True, slots=True)
class Sampling:
    """How to sample. ``temperature`` 0 is greedy; ``top_k`` 0 is off; ``max_tokens`` counts response tokens.

    ``json_schema`` (JSON text) binds the response to a schema, where the engine can; ``None`` leaves it free.
    """

    max_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    json_schema: str | None = None


@dataclass(frozen=True, slots=True)
class GenerateRequest:
    """One response to draw. ``seed=None`` leaves the engine's own random state in charge."""

    prompt_token_ids: tuple[int, ...]
    sampling: Sampling
    seed: int | None = None


@dataclass(frozen=True, slots=True)
class Generation:
    """One drawn response.

    Attributes:
        token_ids: end token included when the model emitted it.
        logprobs: nats, one per token, of the model's distribution at temperature 1 (vLLM's ``raw_logprobs``).
        token_texts: what each token adds to the text (see :class:`bcpg_cluster.records.Rollout`).
        policy_version: the weights that produced every token of it.
    """

    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    token_texts: tuple[str, ...]
    stop_reason: StopReason
    policy_version: int

    @property
    def text(self) -> str:
        """The response, special tokens left out."""
        return "".join(self.token_texts)


class TextGenerator(Protocol):
    """A causal LM that samples."""

    @property
    def policy_version(self) -> int:
        """The version of the weights that answer now; 0 is the base model."""
        ...

    def render(self, messages: Sequence[dict[str, str]]) -> tuple[int, ...]:
        """The chat template's token ids, generation prompt included."""
        ...

    def generate(self, requests: Sequence[GenerateRequest]) -> list[Generation]:
        """Answer all requests, in order. A request the engine gives up comes back as ``StopReason.ABORTED``.

        Raises:
            EngineError: the engine itself failed; nothing of this call is usable.
        """
        ...

    def health(self) -> dict[str, float]:
        """Numbers for dashboards: requests running and waiting, tokens generated so far, busy seconds."""
        ...

    def close(self) -> None:
        """Free everything. The engine is not used again."""
        ...


@dataclass(frozen=True, slots=True)
class PushGroup:
    """Where a weight-transfer group meets. Rank 0 is the trainer's; receivers have ranks 1..world_size-1.

    Attributes:
        host, port: of the rendezvous, on rank 0's machine.
        backend: a name known to vLLM's weight-transfer factory (``gloo`` is ours; ``nccl`` is vLLM's).
    """

    host: str
    port: int
    world_size: int
    backend: str


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One parameter on the wire: its name in the Hugging Face checkpoint, its dtype (``float32``) and shape."""

    name: str
    dtype: str
    shape: tuple[int, ...]


class WeightReceiver(Protocol):
    """A generator whose weights can be replaced while it lives. Calls come in this order, with no work in flight:
    ``join_push_group`` once per group, then for each push ``receive_weights``; or ``load_snapshot`` alone.
    """

    def join_push_group(self, group: PushGroup, rank: int) -> None:
        """Meet the sender; blocks until all ranks are there (the caller holds the deadline). An engine of several parts takes as
        many ranks, from ``rank`` on.
        """
        ...

    def receive_weights(self, specs: Sequence[TensorSpec], version: int) -> dict[str, str]:
        """Take all parameters of one push, put them in force, reset the prefix cache, set ``policy_version``.

        Returns:
            sha256 hex digest of every parameter as it arrived, by name.

        Raises:
            PushError: the prefix cache could not be reset, or a parameter does not fit.
        """
        ...

    def leave_push_group(self) -> None:
        """Drop the group (it will be re-made). Safe to call when there is none."""
        ...

    def load_snapshot(self, path: str, version: int) -> None:
        """Put the weights of a checkpoint directory in force: how a restarted engine catches up."""
        ...

    def score_tokens(self, sequences: Sequence[tuple[tuple[int, ...], tuple[int, ...]]]) -> list[tuple[float, ...]]:
        """Log-probs in nats of given responses, one per response token, for (prompt ids, response ids) pairs."""
        ...

    def score_next(self, prefix: tuple[int, ...], token: int) -> float:
        """Log-prob in nats of one given token after ``prefix``, computed through the prefix cache as decoding does."""
        ...


@runtime_checkable
class Sleeper(Protocol):
    """An engine that can give its device to others and come back with the same weights. Its caches are gone then."""

    def sleep(self) -> bool:
        """Free the device; there is no work under way. False when this engine cannot."""
        ...

    def wake_up(self) -> None:
        """Take the device again."""
        ...


class RolloutEngine(TextGenerator, WeightReceiver, Protocol):
    """What a member of the rollout pool is."""


@dataclass(frozen=True, slots=True)
class JudgeCase:
    """A wrong response to be judged step by step. ``gold`` is ``None`` when the judge may not see it."""

    problem: str
    steps: tuple[str, ...]
    gold: str | None = None


@dataclass(frozen=True, slots=True)
class Judgement:
    """What a judge says of one step. ``JUDGED`` carries a ``label`` or a ``score`` in [0, 1]; other statuses neither."""

    status: VerdictStatus
    label: int | None = None
    score: float | None = None
    error_type: ErrorType | None = None
    raw: str = ""


class Judge(Protocol):
    """Anything that grades steps: an LLM judge, a process reward model, the truth of the embedded task."""

    @property
    def version(self) -> str:
        """Names model, prompt and settings: two judges with the same version give the same verdicts."""
        ...

    def judge(self, cases: Sequence[JudgeCase]) -> list[tuple[Judgement, ...]]:
        """One judgement per step of every case, in order; what could not be judged comes back as a status.

        Raises:
            EngineError: the engine itself failed; the cases may be tried again elsewhere.
        """
        ...

    def health(self) -> dict[str, float]:
        """Numbers for dashboards; see :class:`TextGenerator`."""
        ...

    def close(self) -> None:
        """Free everything."""
        ...


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
        rival_token_ids: a second response to the same prompt, where the objective takes one (``method.objective.Rows``):
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
    """Adapters instead of whole weights (``engines.lora``).

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
            ``early_stop_window`` steps, lies below minus this and still falls (0: never); see ``method.early_stop``.
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
        reports: of the training that goes on or was last, as its steps are done; read from another thread.
    """

    reports: list[StepReport]

    def open(self, model_path: str, settings: TrainSettings) -> None:
        """Load the round's start weights and make a fresh optimiser."""
        ...

    def reference_logprobs(self, rows: Sequence[TrainRow]) -> dict[int, ReferenceLogprobs]:
        """lp_ref of this rank's share of the rows, by row index; shares tile the rows over all ranks."""
        ...

    def train(self, rows: Sequence[TrainRow], checkpoint_dir: str | None) -> list[StepReport]:
        """Run the step plan over ``rows`` (with ``reference``), resuming from ``checkpoint_dir``. Fewer reports than planned
        steps mean that the stated early stop ended it.

        Raises:
            TrainingDivergedError: loss or gradient not finite; the weights are then not usable.
        """
        ...

    def save_snapshot(self, path: str) -> dict[str, str] | None:
        """Write a Hugging Face checkpoint directory (rank 0; the others take part in gathering and return ``None``).

        Returns:
            sha256 hex digest of every parameter as written, by name.
        """
        ...

    def join_push_group(self, group: PushGroup) -> None:
        """Meet the receivers as rank 0 of the push group (other trainer ranks return at once)."""
        ...

    def push_weights(self) -> list[TensorSpec]:
        """Send all parameters, packed, in the order of :meth:`push_specs`; every rank takes part in gathering."""
        ...

    def push_specs(self) -> list[TensorSpec]:
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
