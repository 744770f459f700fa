"""The configuration of a run: one frozen section per stage, importable without torch.

A config file is YAML with these sections; every field has a default except the models and prompts. Unknown keys are
errors. ``embedded:NAME`` names something shipped inside the package. A file may lie over another one: ``extends: other.yaml``.
"""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from bcpg_cluster.errors import ConfigError
from bcpg_cluster.method.consensus import ConsensusRule
from bcpg_cluster.method.objective import OBJECTIVES, Bcpg, Objective

EMBEDDED = "embedded:"
TRACKERS = ("tensorboard", "trackio", "wandb", "mlflow")
FAKE_MODELS = ("fake", "fake:garbage", "fake:empty", "fake:endless", "fake:aborted")


class Section(BaseModel):
    """A part of the configuration: frozen, and unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


def _check_not_in_engine_args(engine_args: Mapping[str, Any], section: str, names: Sequence[str]) -> None:
    """More than vLLM must know these. Raises :class:`ValueError` for one that is set for vLLM alone."""
    for name in names:
        if name in engine_args:
            raise ValueError(
                f"engine_args sets {name}, which not only vLLM must know; set {section}.{name} instead and take it out"
            )


class PolicyConfig(Section):
    """The model that is trained.

    ``engine_args`` go to vLLM untouched and are checked by vLLM's own parser. A fake policy's model is ``fake``, or
    ``fake:garbage``, ``fake:empty``, ``fake:endless``, ``fake:aborted`` to see what a run makes of such responses.

    Attributes:
        revision: branch, tag or commit of a hub id, for the engines and the trainer alike.
        trust_remote_code: run Python code that comes with the model, in the engines, the trainer and the tokenizer.
    """

    model: str
    kind: Literal["vllm", "fake"] = "vllm"
    revision: str | None = None
    trust_remote_code: bool = False
    engine_args: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _one_place_each(self) -> PolicyConfig:
        _check_not_in_engine_args(self.engine_args, "policy", ("trust_remote_code", "revision"))
        return self

    @model_validator(mode="after")
    def _fakes_by_name(self) -> PolicyConfig:
        if self.kind == "fake" and self.model not in FAKE_MODELS:
            raise ValueError(f"model {self.model!r} is no fake; there are {', '.join(FAKE_MODELS)}")
        return self


class ColumnsConfig(Section):
    """Which column of a data set is what; ``question.text`` reaches into a column of objects.

    Attributes:
        question, answer: the problem and the gold answer.
        prompt_id: names the problem; without it problems are numbered by their row.
    """

    question: str = "question"
    answer: str = "answer"
    prompt_id: str | None = None


class GeneratedConfig(Section):
    """Problems that a package makes (``task:reasoning_gym/NAME``): how many, and from what.

    All problems of a set differ, and no test problem is trained on, whatever the seeds: further ones are drawn instead.

    Attributes:
        train_size, test_size: problems of the train file, and of each test file.
        train_seed, test_seed: of the generator.
        parameters: the generator's own, by generator and name: ``{chain_sum: {max_terms: 4}}``.
    """

    train_size: int = Field(5000, ge=1)
    test_size: int = Field(500, ge=1)
    train_seed: int = Field(0, ge=0)
    test_seed: int = Field(1_000_000, ge=0)
    parameters: dict[str, dict[str, Any]] = Field(default_factory=dict)


class PromptsConfig(Section):
    """Where problems come from.

    ``train`` and ``test`` are JSON lines with ``prompt_id``, ``question`` and ``answer``; or, with ``columns``, any JSON-lines or
    Parquet file, saved data set or hub id; or a ready-made task: ``task:gsm8k``, ``task:NAME=/a/local/copy``.

    ``order`` says which prompts a round gets: ``stated`` takes the file's own order, ``shuffled`` a permutation by the run's
    seed; either way each round takes the next ``per_round`` and starts again at the front when all were used. ``more_tests``
    are further test files by name (harder problems, say), measured and reported beside ``test`` every round. ``generated``
    is for tasks whose problems are made.
    """

    train: str
    test: str
    per_round: int = Field(256, ge=1)
    order: Literal["stated", "shuffled"] = "shuffled"
    columns: ColumnsConfig | None = None
    train_split: str | None = None
    test_split: str | None = None
    config_name: str | None = None
    revision: str | None = None
    limit: int | None = Field(None, ge=1)
    more_tests: dict[str, str] = Field(default_factory=dict)
    generated: GeneratedConfig | None = None

    @model_validator(mode="after")
    def _something_is_generated(self) -> PromptsConfig:
        begin = "task:reasoning_gym/"
        sources = (self.train, self.test, *self.more_tests.values())
        generators = {source.removeprefix(begin) for source in sources if source.startswith(begin)}
        if self.generated is not None:
            unused = sorted(set(self.generated.parameters) - generators)
            if not generators or unused:
                raise ValueError(
                    f"prompts.generated {f'names {unused}, ' if unused else ''}is about problems that are made; train, test and "
                    f"more_tests name {sorted(begin + name for name in generators) or 'no ' + begin + 'NAME'}"
                )
        return self


class GenerateConfig(Section):
    """How the policy is sampled. A shard holds whole groups.

    ``seed_per_request`` makes every sample reproducible by itself, at a cost in speed on GPUs (switches off vLLM's fast
    sampler).
    """

    group_size: int = Field(16, ge=2)
    temperature: float = Field(1.0, gt=0)
    top_p: float = Field(1.0, gt=0, le=1)
    top_k: int = Field(0, ge=0)
    max_tokens: int = Field(ge=1)
    prompts_per_shard: int = Field(32, ge=1)
    seed_per_request: bool = True


class VerifyConfig(Section):
    """How an answer is checked.

    Attributes:
        kind: ``exact`` reads ``answer_pattern``'s last match; ``math`` is math-verify; ``code`` runs the response's last code
            block against unit tests in a sandbox; ``function`` asks a function of yours.
        function: ``package.module:function`` of (response, gold), a score in [0, 1] or None.
        threshold: the least score of ``function`` that is reward 1.
        prompt_opens_thinking: the chat template ends with ``<think>``, so a response without ``</think>`` has no answer.
        cpu_limit_s, wall_limit_s, memory_gib: of one program (``code``).
        allow_unsandboxed: run code without isolation where the kernel allows none.
    """

    kind: Literal["exact", "math", "code", "function"] = "exact"
    answer_pattern: str = r"answer (\S+)"
    numeric: bool = True
    time_limit_s: float = Field(10.0, gt=0)
    function: str | None = None
    threshold: float = Field(1.0, ge=0, le=1)
    prompt_opens_thinking: bool = False
    cpu_limit_s: int = Field(6, ge=1)
    wall_limit_s: float = Field(60.0, gt=0)
    memory_gib: float = Field(2.0, gt=0)
    allow_unsandboxed: bool = False

    @model_validator(mode="after")
    def _function_is_named(self) -> VerifyConfig:
        if (self.kind == "function") != (self.function is not None):
            raise ValueError("verify.kind 'function' needs verify.function, and no other kind has one")
        return self


class SegmentConfig(Section):
    """How a wrong response is cut into steps.

    Attributes:
        kind: how pieces are found: by the text's ``structure`` (``method.segment``), at a ``delimiter``, or by Segment Any
            Text (``sat``, an extra).
        split_on, cues, cues_inside_lines, min_tokens, max_tokens: ``structural``, see ``method.segment.StepRules``; ``None``
            keeps the rule's cues.
        cut_after, cut_before: ``delimiter``: strings that end, that begin a piece.
        merge: whether pieces are merged into steps of some size (``method.step_merge``); ``auto`` is on for ``delimiter`` and
            ``sat``.
        merge_min_tokens, merge_target_tokens, merge_max_tokens, merge_cues: sizes of merged steps, and the words that close
            one; ``None`` keeps the rule's words.
        model, sat_tokenizer, threshold, stride, block_size, batch_size, backend, onnx_providers, device: ``sat``, see
            ``engines.sat_splitter``. The threshold is 0.25 for -sm models, 0.025 for the others.
    """

    kind: Literal["structural", "delimiter", "sat"] = "structural"
    split_on: Literal["line", "paragraph"] = "line"
    cues: tuple[str, ...] | None = None
    cues_inside_lines: bool = False
    min_tokens: int = Field(1, ge=1)
    max_tokens: int = Field(0, ge=0)
    cut_after: tuple[str, ...] = ("\n\n",)
    cut_before: tuple[str, ...] = ()
    merge: bool | Literal["auto"] = "auto"
    merge_min_tokens: int = Field(64, ge=1)
    merge_target_tokens: int = Field(256, ge=1)
    merge_max_tokens: int = Field(512, ge=0)
    merge_cues: tuple[str, ...] | None = None
    model: str | None = None
    sat_tokenizer: str | None = None
    threshold: float = Field(0.25, gt=0, lt=1)
    stride: int = Field(256, ge=1)
    block_size: int = Field(512, ge=1)
    batch_size: int = Field(32, ge=1)
    backend: Literal["auto", "wtpsplit", "wtpsplit-lite"] = "auto"
    onnx_providers: tuple[str, ...] | None = None
    device: str | None = None

    @model_validator(mode="after")
    def _sat_has_a_model(self) -> SegmentConfig:
        if self.kind == "sat" and not self.model:
            raise ValueError("segment.kind 'sat' needs segment.model: a directory or hub id, e.g. sat-3l-sm")
        return self


class EndpointConfig(Section):
    """An OpenAI-compatible endpoint (a vendor's, a vLLM server's, Ray Serve's) that a judge of kind ``openai`` asks.

    Limits are per process of the judge's pool: divide by its members.

    Attributes:
        base_url: address up to and with ``/v1``.
        api_key_env: environment variable with the key, which is read where the judge runs and stored nowhere.
        token_limit_field: what the endpoint calls the limit on answer tokens.
        structured: how the answer's JSON schema is sent (``strict`` for OpenAI).
        extra_body: further fields of the request, untouched.
        timeout_s, max_retries: of one try; tries after the first, with growing waits.
        give_up_after: calls in a row without an answer (timeout, 5xx, no connection), all tries used, that fail the lease.
        max_unanswered: largest share of a shard's steps that may stay without an answer; above it the shard is judged again,
            and after ``pools.<name>.max_attempts`` the run stops.
        requests_per_minute, tokens_per_minute, concurrency: what the endpoint is asked at most.
        price_prompt, price_answer, price_cached_prompt: money per million tokens; without the first two nothing is added up.
    """

    base_url: str
    api_key_env: str | None = None
    token_limit_field: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    structured: Literal["json_schema", "strict", "json_object", "none"] = "json_schema"
    extra_body: dict[str, Any] = Field(default_factory=dict)
    timeout_s: float = Field(120.0, gt=0)
    max_retries: int = Field(5, ge=0)
    give_up_after: int = Field(20, ge=1)
    max_unanswered: float = Field(0.5, ge=0, le=1)
    requests_per_minute: float | None = Field(None, gt=0)
    tokens_per_minute: float | None = Field(None, gt=0)
    concurrency: int = Field(8, ge=1)
    price_prompt: float | None = Field(None, ge=0)
    price_answer: float | None = Field(None, ge=0)
    price_cached_prompt: float | None = Field(None, ge=0)

    @model_validator(mode="after")
    def _prices_go_together(self) -> EndpointConfig:
        if (self.price_prompt is None) != (self.price_answer is None):
            raise ValueError("price_prompt and price_answer are given together or not at all")
        return self


class JudgeConfig(Section):
    """One member of the judge ensemble.

    Attributes:
        role: ``vote`` takes part in the consensus; ``measure`` is only compared with it (the truth, where it is known);
            ``spare`` judges and its verdicts are kept, for a later `weigh` that gives it another role.
        threshold: lambda of Eq. 4, for judges that score; applied when weights are made, never when judging.
        view: ``causal`` shows steps 0..k for the verdict on k (the paper's notation), ``full`` asks for all verdicts in one call.
        show_gold: whether the judge sees the gold answer.
        prompt: ``embedded:NAME`` or a TOML file.
        max_tokens: of one answer; JSON with reasons takes about 90 tokens a step.
        window_steps, window_tokens: most steps one call of the full view asks about, and most tokens of those; ``None`` is no
            limit.
        look_ahead: a window also shows the steps after it.
        temperature, top_p: of the judge; 0 is greedy.
        sample: which draw of the same request this judge is.
        answer_after: only what follows this marker is the answer, e.g. ``</think>``.
        structured: ``llm``: whether vLLM enforces the schema of a JSON prompt; ``none`` for judges that think aloud first, whose
            thoughts it would bind.
        cache: directory of answers shared between runs.
        endpoint: of a judge of kind ``openai``.
        trust_remote_code: run Python code that comes with the model (``llm``, ``prm``).
        convention: ``prm``: how the model is shown steps; ``auto`` reads its architecture or name.
        engine: ``prm``: what serves it; ``auto`` is transformers for skywork, else vLLM.
        context_tokens: ``prm``: least left context of a later window over a long response, at most half the model's context.
        separator, system: ``prm``: the step token, and the system message; ``None`` is what the family was trained with.
        pool: where it runs; by default ``judge.<name>`` (``prm`` for the judge of that name, ``cpu`` for ``chain_truth``).
    """

    kind: Literal["llm", "openai", "prm", "chain_truth", "fake"]
    role: Literal["vote", "measure", "spare"] = "vote"
    model: str | None = None
    engine_args: dict[str, Any] = Field(default_factory=dict)
    trust_remote_code: bool = False
    prompt: str = "embedded:taxonomy"
    view: Literal["causal", "full"] = "full"
    show_gold: bool = False
    max_tokens: int = Field(512, ge=1)
    window_steps: int | None = Field(None, ge=1)
    window_tokens: int | None = Field(None, ge=1)
    look_ahead: bool = False
    temperature: float = Field(0.0, ge=0)
    top_p: float = Field(1.0, gt=0, le=1)
    sample: int = Field(0, ge=0)
    answer_after: str | None = None
    structured: Literal["schema", "none"] = "schema"
    cache: str | None = None
    endpoint: EndpointConfig | None = None
    threshold: float = Field(0.5, ge=0, le=1)
    convention: Literal["auto", "qwen", "math_shepherd", "rlhflow", "skywork"] = "auto"
    engine: Literal["auto", "vllm", "transformers"] = "auto"
    context_tokens: int = Field(512, ge=0)
    separator: str | None = None
    system: str | None = None
    precision: float = Field(0.9, ge=0, le=1)
    recall: float = Field(0.8, ge=0, le=1)
    pool: str | None = None

    @model_validator(mode="after")
    def _one_place_each(self) -> JudgeConfig:
        _check_not_in_engine_args(self.engine_args, "judges.<name>", ("trust_remote_code",))
        return self

    @model_validator(mode="after")
    def _needs_a_model(self) -> JudgeConfig:
        if self.kind in ("llm", "openai", "prm") and not self.model:
            raise ValueError(f"a judge of kind {self.kind!r} needs a model")
        if (self.kind == "openai") != (self.endpoint is not None):
            raise ValueError("a judge of kind 'openai' needs an endpoint section, and no other kind has one")
        if self.structured != "schema" and self.kind != "llm":
            raise ValueError("structured is for judges of kind 'llm'; an endpoint's is in its endpoint section")
        return self


class WeighConfig(Section):
    """How verdicts become token weights (Eqs. 3-7). ``beta`` 1 is plain BCPG.

    Attributes:
        rule: ``all`` is the paper's AND; ``majority`` wants more than half of the voters, ``k_of_n`` ``num_needed`` of them,
            ``any`` one; ``weighted`` adds up log-odds.
        abstention: what a voter without an answer counts as: ``against``, or ``left_out`` of the count.
        num_needed: k of ``k_of_n``.
        accuracies: by voter, in [0.5, 1), for ``weighted`` (`judge-eval` measures them).
        prior: chance that a step is right before anybody is asked, for ``weighted``.
        truncated: what a response cut off at the token limit is: a ``negative`` (the paper's data), left out of training but
            counted in rbar (``mask``), or left out of both (``drop``).
        flip_rate: share of the step labels turned over at random, by the run's seed; to see how judge quality matters.
    """

    rule: Literal["all", "any", "majority", "k_of_n", "weighted"] = "all"
    abstention: Literal["against", "left_out"] = "against"
    num_needed: int | None = Field(None, ge=1)
    accuracies: dict[str, float] = Field(default_factory=dict)
    prior: float = Field(0.5, gt=0, lt=1)
    beta: float = Field(0.5, ge=-1, le=1)
    min_verified_share: float = Field(0.5, ge=0, le=1)
    truncated: Literal["negative", "mask", "drop"] = "negative"
    flip_rate: float = Field(0.0, ge=0, le=1)


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
    """One round's training; the fields are those of ``engines.protocols.TrainSettings`` (its objective: ``objective``)."""

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


class PushConfig(Section):
    """How new weights reach the rollout engines, and how that is proven.

    Attributes:
        backend: ``gloo`` is ours (CPU); ``nccl`` is vLLM's own (GPUs); ``disk`` lets every engine reload the snapshot.
        deadline_s: for the whole push; past it the stuck are killed and reload from the snapshot.
        tolerance_nats: the largest difference per token allowed between the trainer's and an engine's log-prob of a canary,
            and the smallest difference between old and new weights that makes a canary tell them apart.
    """

    backend: Literal["gloo", "nccl", "disk"] = "gloo"
    deadline_s: float = Field(300.0, gt=0)
    num_canaries: int = Field(8, ge=1)
    tolerance_nats: float = Field(1e-3, gt=0)


class EvaluateConfig(Section):
    """The same benchmark every round: ``num_samples`` responses to each test prompt, and one greedy if ``greedy``."""

    num_prompts: int | None = Field(None, ge=1)
    num_samples: int = Field(4, ge=1)
    temperature: float = Field(1.0, gt=0)
    top_p: float = Field(1.0, gt=0, le=1)
    greedy: bool = True
    max_tokens: int | None = Field(None, ge=1)
    prompts_per_shard: int = Field(64, ge=1)


class PoolConfig(Section):
    """A pool of equal actors.

    Attributes:
        members: how many to start. ``min``/``max`` bound later resizing, by hand or by the queue (default: ``members``).
        target_queue_per_actor: with it the pool resizes itself between ``min`` and ``max``: one member for so many shards that wait
            or are under way (not for the trainers).
        scale_down_after_s: how long a smaller size must have been enough before the pool shrinks by itself.
        placement_timeout_s: how long a member waits for a node with room for it; ``start_timeout_s`` counts from then.
        leases_per_member: shards a member works on at once, so that its batch never drains at a shard border.
        resources: Ray's custom resources of one member; ``num_cpus``, ``num_gpus`` likewise.
        memory_gib: what one member needs; checked against the machine before anything starts.
        when_idle: what a member does while other pools have their turn (``placement: colocated``): ``close`` ends its process;
            ``sleep`` has vLLM free the GPU and keep its process (where vLLM cannot, as on CPUs, it is closed).
        env: environment variables of the member's process.
        lease_timeout_s: a lease that takes longer is given to another member and this one is replaced.
        max_attempts: tries of one piece of work before the run stops.
    """

    members: int = Field(1, ge=1)
    min: int | None = Field(None, ge=1)
    max: int | None = Field(None, ge=1)
    target_queue_per_actor: float | None = Field(None, gt=0)
    scale_down_after_s: float = Field(300.0, ge=0)
    leases_per_member: int = Field(2, ge=1)
    num_cpus: float = Field(1.0, ge=0)
    num_gpus: float = Field(0.0, ge=0)
    resources: dict[str, float] = Field(default_factory=dict)
    memory_gib: float = Field(1.0, gt=0)
    when_idle: Literal["close", "sleep"] = "close"
    env: dict[str, str] = Field(default_factory=dict)
    lease_timeout_s: float = Field(3600.0, gt=0)
    start_timeout_s: float = Field(600.0, gt=0)
    placement_timeout_s: float = Field(1800.0, gt=0)
    max_attempts: int = Field(3, ge=1)

    @model_validator(mode="after")
    def _bounds(self) -> PoolConfig:
        low, high = self.min or self.members, self.max or self.members
        if not low <= self.members <= high:
            raise ValueError(f"members {self.members} is outside min {low} .. max {high}")
        if self.target_queue_per_actor is not None and low == high:
            raise ValueError(f"target_queue_per_actor resizes the pool between min and max, and both are {low}")
        return self


class SnapshotsConfig(Section):
    """Which snapshots are kept: the base, the best by sampled accuracy, and the newest ``keep_last``."""

    keep_last: int = Field(2, ge=1)


class StorageConfig(Section):
    """How a run directory in an object store is reached (``--run-dir s3://bucket/runs/a``).

    Attributes:
        options: for the fsspec driver of the address (``endpoint_url``, ``profile``, ...). They are written to the run's
            ``config.yaml``: credentials belong into the environment or the drivers' own files.
    """

    options: dict[str, Any] = Field(default_factory=dict)


class TensorboardConfig(Section):
    """Event files for TensorBoard. It has no options."""


class TrackioConfig(Section):
    """trackio, local unless a Space is named.

    Attributes:
        project: groups runs; ``null`` is the configuration's ``name``.
        space_id: a Hugging Face Space to log to (needs a token).
    """

    project: str | None = None
    space_id: str | None = None


class WandbConfig(Section):
    """Weights & Biases.

    Attributes:
        project: groups runs; ``null`` is the configuration's ``name``.
        entity: the team or user; ``null`` is the account's own.
        mode: ``offline`` needs no account, and ``wandb sync`` uploads later; ``online`` needs a key in the environment.
    """

    project: str | None = None
    entity: str | None = None
    mode: Literal["offline", "online"] = "offline"


class MlflowConfig(Section):
    """MLflow.

    Attributes:
        uri: a tracking server or store; ``null`` is a SQLite file.
        experiment: groups runs; ``null`` is the configuration's ``name``.
    """

    uri: str | None = None
    experiment: str | None = None


class TrackingConfig(Section):
    """Experiment trackers that hear of every round and optimiser step; each is an extra of the package. `{}` chooses one as it is.

    Attributes:
        folder: where they write; ``null`` is ``tracking`` beside the run directory, which the runs there then share (in the
            current directory for a run in an object store).
        tensorboard, trackio, wandb, mlflow: a section of that tracker's options; ``null`` leaves it out.
    """

    folder: str | None = None
    tensorboard: TensorboardConfig | None = None
    trackio: TrackioConfig | None = None
    wandb: WandbConfig | None = None
    mlflow: MlflowConfig | None = None

    @property
    def chosen(self) -> tuple[str, ...]:
        """The trackers that are not left out."""
        return tuple(name for name in TRACKERS if getattr(self, name) is not None)


class Config(Section):
    """A whole run.

    Attributes:
        name: of the run, and of its default directory.
        seed: of all that is drawn at random.
        placement: ``separate`` gives every pool resources of its own, and stages overlap; ``colocated`` lets pools take turns on
            the same ones: rollouts, each judge, trainers. Results are the same.
        autoscaling: whether nodes may still come to the cluster. ``auto`` finds out where it can: on the head of a cluster that
            `ray up` started; elsewhere a cluster without room for the run is an error at once.
    """

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    seed: int = Field(0, ge=0)
    placement: Literal["separate", "colocated"] = "separate"
    autoscaling: Literal["auto"] | bool = "auto"
    policy: PolicyConfig
    prompts: PromptsConfig
    generate: GenerateConfig
    verify: VerifyConfig = Field(default_factory=VerifyConfig)
    segment: SegmentConfig = Field(default_factory=SegmentConfig)
    judges: dict[str, JudgeConfig]
    weigh: WeighConfig = Field(default_factory=WeighConfig)
    objective: Annotated[Objective, Field(discriminator="name")] = Field(default_factory=Bcpg)
    train: TrainConfig = Field(default_factory=TrainConfig)
    push: PushConfig = Field(default_factory=PushConfig)
    evaluate: EvaluateConfig = Field(default_factory=EvaluateConfig)
    pools: dict[str, PoolConfig] = Field(default_factory=dict)
    snapshots: SnapshotsConfig = Field(default_factory=SnapshotsConfig)
    storage: StorageConfig = Field(default_factory=StorageConfig)
    tracking: TrackingConfig = Field(default_factory=TrackingConfig)

    @field_validator("objective", mode="before")
    @classmethod
    def _bcpg_unless_named(cls, objective: Any) -> Any:
        return {"name": "bcpg", **objective} if isinstance(objective, dict) else objective

    @field_validator("judges")
    @classmethod
    def _judge_names(cls, judges: dict[str, JudgeConfig]) -> dict[str, JudgeConfig]:
        for name in judges:
            if not name.replace("_", "").replace("-", "").isalnum():
                raise ValueError(
                    f"judge name {name!r} must be letters, digits, '_' or '-' (it names a pool and a table)"
                )
        if not any(judge.role == "vote" for judge in judges.values()):
            raise ValueError("no judge has role 'vote'; without one no step can be mined")
        return judges

    @model_validator(mode="after")
    def _rule_fits_the_voters(self) -> Config:
        self.consensus_rule.check_judges(self.voters)
        return self

    @property
    def consensus_rule(self) -> ConsensusRule:
        """How the voters decide."""
        section = self.weigh
        return ConsensusRule(
            section.rule, section.abstention, section.num_needed, dict(section.accuracies), section.prior
        )

    @model_validator(mode="after")
    def _one_engine_a_pool(self) -> Config:
        engines: dict[str, tuple[str, JudgeConfig]] = {}
        for name, judge in self.judges.items():
            if judge.kind not in ("llm", "prm"):
                continue
            pool = self.judge_pool(name)
            first, other = engines.setdefault(pool, (name, judge))
            engine, others = ((j.kind, j.model, j.engine_args, j.trust_remote_code) for j in (judge, other))
            if engine != others or (judge.kind == "prm" and name != first):
                raise ValueError(
                    f"judges {first!r} and {name!r} are both in pool {pool!r}, whose members host one engine each: judges "
                    "share it when they are of kind 'llm' with the same model and engine_args; give one of them another pool"
                )
        return self

    @model_validator(mode="after")
    def _pools_are_used(self) -> Config:
        unknown = sorted(set(self.pools) - set(self.pool_names()))
        if unknown:
            raise ValueError(
                f"pools {unknown} are used by nothing; this config has the pools {list(self.pool_names())}"
            )
        if self.pool("trainer").target_queue_per_actor is not None:
            raise ValueError("pools.trainer.target_queue_per_actor: the trainer group cannot be resized in a run")
        if self.train.kind in ("torch", "fake") and self.pool("trainer").members != 1:
            raise ValueError(f"train.kind {self.train.kind!r} is one process; set pools.trainer.members to 1")
        return self

    @model_validator(mode="after")
    def _sleepers_can(self) -> Config:
        for name in self.pool_names():
            if self.pool(name).when_idle == "sleep" and not self.engine_args(name).get("enable_sleep_mode"):
                raise ValueError(
                    f"pools.{name}.when_idle is 'sleep', which needs vLLM engines with engine_args.enable_sleep_mode: true"
                )
        return self

    @model_validator(mode="after")
    def _gpus_fit_the_engine(self) -> Config:
        for name in self.pool_names():
            args, gpus = self.engine_args(name), self.pool(name).num_gpus
            ranks = num_ranks(args)
            if gpus and args and (gpus != ranks if ranks > 1 else gpus > 1):
                raise ValueError(
                    f"pools.{name}.num_gpus is {gpus:g}, but its engine_args make engines of {ranks} (tensor_parallel_size times "
                    "pipeline_parallel_size): a member hosts one engine, and has a GPU for each of its parts"
                )
        return self

    def engine_args(self, pool: str) -> dict[str, Any]:
        """The options of the vLLM engines in a pool; empty for one without."""
        if pool == "rollout":
            return self.policy.engine_args if self.policy.kind == "vllm" else {}
        of_pool = [judge for name, judge in self.judges.items() if self.judge_pool(name) == pool]
        return next((judge.engine_args for judge in of_pool if judge.kind in ("llm", "prm")), {})

    def judge_pool(self, judge: str) -> str:
        """The pool a judge runs in."""
        config = self.judges[judge]
        if config.pool:
            return config.pool
        if config.kind in ("chain_truth", "fake"):
            return "cpu"
        return "prm" if judge == "prm" else f"judge.{judge}"

    def pool_names(self) -> Iterator[str]:
        """All pools of this run, in start order."""
        yield "rollout"
        for pool in dict.fromkeys(self.judge_pool(judge) for judge in self.judges):
            if pool != "cpu":
                yield pool
        yield "cpu"
        yield "trainer"

    def pool(self, name: str) -> PoolConfig:
        """A pool's settings; the defaults when the file says nothing of it."""
        return self.pools.get(name, PoolConfig())

    @property
    def voters(self) -> tuple[str, ...]:
        """The judges whose consensus mines a step."""
        return tuple(name for name, judge in self.judges.items() if judge.role == "vote")

    @property
    def identity(self) -> str:
        """Digest of all that decides the results. Pool sizes, time limits and what is kept may change in mid-run."""
        not_results = {"pools", "snapshots", "tracking", "name", "placement", "autoscaling", "storage"}
        content = self.model_dump(mode="json", exclude=not_results)
        content["push"].pop("deadline_s")
        content["train"].pop("checkpoint_every_steps")
        content["train"].pop("group_timeout_s")
        for section in (content["train"], content["policy"], *content["judges"].values()):
            for option in ("lora", "revision", "trust_remote_code"):
                if not section.get(option):  # as if it did not exist: runs from before it go on
                    section.pop(option, None)
        for judge in content["judges"].values():
            judge.pop("cache")
            if judge["endpoint"] is not None:
                judge["endpoint"] = {key: judge["endpoint"][key] for key in ("base_url", "structured", "extra_body")}
        content["trainer_ranks"] = self.pool("trainer").members
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def num_ranks(engine_args: Mapping[str, Any]) -> int:
    """Parts (GPUs) of one vLLM engine: tensor times pipeline parallel."""
    return int(engine_args.get("tensor_parallel_size", 1)) * int(engine_args.get("pipeline_parallel_size", 1))


def shipped_configs() -> dict[str, Path]:
    """The configs that come with the package, by name (``ablations/rft``)."""
    folder = Path(__file__).parent / "configs"
    if not folder.is_dir():  # a checkout: configs/ is beside the package
        folder = Path(__file__).parent.parent / "configs"
    return {path.relative_to(folder).with_suffix("").as_posix(): path for path in sorted(folder.rglob("*.yaml"))}


def resolve_asset(name: str) -> str:
    """Turn ``embedded:NAME`` into the path of the shipped file or directory; anything else is returned as it is.

    Raises:
        ConfigError: nothing of that name is shipped.
    """
    if not name.startswith(EMBEDDED):
        return name
    root = Path(str(resources.files("bcpg_cluster"))) / "assets"
    path = root / name.removeprefix(EMBEDDED)
    if not path.exists():
        shipped = sorted(p.name for p in root.iterdir() if p.is_dir() and not p.name.startswith("_"))
        raise ConfigError(
            f"{name!r} is not shipped",
            rule=f"embedded: names one of {shipped} (prompts as embedded:prompts/train.jsonl)",
            remedy="correct the name, or give a path or a Hugging Face id",
        )
    return str(path)


def load_config(
    source: str | Path,
    overrides: Sequence[str] = (),
    complete: Callable[[dict[str, Any]], None] = lambda content: None,
) -> Config:
    """Read a config by path or shipped name, with ``key.path=value`` overrides (values are YAML).

    Args:
        complete: given the content with the overrides in it, puts in what follows from it (``tasks.run_defaults``).

    Raises:
        ConfigError: it does not exist, is not YAML, or does not hold; names every offending key.
    """
    path = shipped_configs().get(str(source)) or Path(source)
    return change_config(_read_file(path, ()), overrides, str(path), complete)


def _read_file(path: Path, extended_by: tuple[Path, ...]) -> dict[str, Any]:
    """A file's content over that of the file its key ``extends`` names, which is looked for beside it."""
    if not path.is_file():
        raise ConfigError(
            f"config {str(path)!r} does not exist" + (f" ({extended_by[-1]} extends it)" if extended_by else ""),
            rule="--config is a YAML file or the name of a shipped config; extends is a file beside its own",
            remedy=f"shipped: {', '.join(shipped_configs()) or 'none'}",
        )
    try:
        content = yaml.safe_load(path.read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"{path} is not YAML: {error}", rule="a config is a YAML mapping", remedy="mend the file"
        ) from None
    if not isinstance(content, dict):
        raise ConfigError(
            f"{path} holds a {type(content).__name__}", rule="a config is a YAML mapping", remedy="see configs/"
        )
    base = content.pop("extends", None)
    if base is None:
        return content
    if not isinstance(base, str) or path in extended_by:
        raise ConfigError(
            f"{path} extends {base!r}" + (", which extends it in turn" if path in extended_by else ""),
            rule="extends is the path of another config, from the place of the file that says so",
            remedy="correct it, or write the keys out",
        )
    return _laid_over(_read_file(path.parent / base, (*extended_by, path)), content)


def _laid_over(below: dict[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Sections are joined key by key; everything else is replaced. An objective of another name replaces the whole section."""
    joined = dict(below)
    for key, value in above.items():
        old = joined.get(key)
        if isinstance(value, Mapping) and isinstance(old, dict) and value.get("name") in (None, old.get("name")):
            joined[key] = _laid_over(old, value)
        else:
            joined[key] = value
    return joined


def change_config(
    content: dict[str, Any],
    overrides: Sequence[str],
    where: str,
    complete: Callable[[dict[str, Any]], None] = lambda content: None,
) -> Config:
    """Check a mapping with ``key.path=value`` overrides applied to it (in place). Raises like :func:`load_config`."""
    for override in overrides:
        _apply_override(content, override)
    complete(content)
    return parse_config(content, where)


def parse_config(content: Mapping[str, Any], where: str) -> Config:
    """Check a mapping. Raises :class:`ConfigError` naming every offending key, the rule, and near names for typing slips."""
    try:
        return Config.model_validate(content)
    except ValidationError as error:
        problems, near = [], []
        for item in error.errors(include_url=False):
            key = ".".join(str(part) for part in item["loc"]) or "(whole config)"
            given = "" if item["type"] in _SAY_ENOUGH else f" (got {item['input']!r})"
            problems.append(f"{key}: {item['msg']}{given}")
            if item["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
                near += [f"{key} -> {guess}" for guess in _near_keys(item["loc"])]
        raise ConfigError(
            f"{where} does not hold:\n    " + "\n    ".join(problems),
            rule="known keys with values of the stated kind (docs/operate.md lists them; `bcpg-cluster validate` checks)",
            remedy="did you mean " + ", ".join(near) + "?" if near else "correct the keys named above",
        ) from None


_SAY_ENOUGH = ("missing", "extra_forbidden", "unexpected_keyword_argument", "value_error")  # without the value, that is


def _near_keys(location: tuple[str | int, ...]) -> list[str]:
    """Known keys of the section ``location`` lies in that look like its last part."""
    if location[0] == "objective" and len(location) == 3:  # objective.<its name>.<option>
        known = [field.name for field in fields(OBJECTIVES[str(location[1])])]
        return difflib.get_close_matches(str(location[-1]), known, n=2)
    section: type[BaseModel] = Config
    for part in location[:-1]:
        field = section.model_fields.get(str(part))
        if field is None:
            continue  # a name inside a mapping of sections (a judge, a pool)
        for kind in (field.annotation, *getattr(field.annotation, "__args__", ())):
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                section = kind
    return difflib.get_close_matches(str(location[-1]), section.model_fields, n=2)


def _apply_override(content: dict[str, Any], override: str) -> None:
    """Set ``a.b.c=value`` in place. A pool's name may hold a dot (``pools.judge.llm.members=2``)."""
    key, equals, value = override.partition("=")
    parts = key.strip().split(".")
    if not equals or not all(parts):
        raise ConfigError(
            f"--set {override!r} cannot be read", rule="--set section.key=value", remedy="e.g. --set weigh.beta=0.25"
        )
    if parts[:2] == ["pools", "judge"] and len(parts) >= 4:
        parts[1:3] = [f"judge.{parts[2]}"]
    node = content
    for part in parts[:-1]:
        node = node.setdefault(part, {})
        if not isinstance(node, dict):
            raise ConfigError(
                f"--set {override!r}: {part!r} is not a section", rule="--set section.key=value", remedy="see configs/"
            )
    try:
        node[parts[-1]] = yaml.safe_load(value)
    except yaml.YAMLError:
        node[parts[-1]] = value
