"""The sections of the policy, generation, verification, segmentation, weighing, the push and evaluation."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from bcpg_cluster.config.section import Section, check_not_in_engine_args

FAKE_MODELS = ("fake", "fake:garbage", "fake:empty", "fake:endless", "fake:aborted")


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
        check_not_in_engine_args(self.engine_args, "policy", ("trust_remote_code", "revision"))
        return self

    @model_validator(mode="after")
    def _fakes_by_name(self) -> PolicyConfig:
        if self.kind == "fake" and self.model not in FAKE_MODELS:
            raise ValueError(f"model {self.model!r} is no fake; there are {', '.join(FAKE_MODELS)}")
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
        idle_limit_s: how long a program may sleep or wait for nothing (``code``); then it is wrong.
        overdue_is_wrong: reward 0 for a program out of wall time, unless it mostly waited for a processor; else no reward.
        tolerance: absolute or relative, of floats that a program prints or returns (``code``).
        packages: installed distributions that a program may import besides the standard library (``code``).
        num_parallel: programs at once in one member (``code``); by default as many as it has processors.
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
    idle_limit_s: float = Field(10.0, gt=0)
    overdue_is_wrong: bool = True
    tolerance: float = Field(1e-6, ge=0)
    packages: tuple[str, ...] = ("numpy", "scipy", "sympy", "mpmath")
    num_parallel: int | None = Field(None, ge=1)
    allow_unsandboxed: bool = False

    @model_validator(mode="after")
    def _function_is_named(self) -> VerifyConfig:
        if (self.kind == "function") != (self.function is not None):
            raise ValueError("verify.kind 'function' needs verify.function, and no other kind has one")
        return self


class SegmentConfig(Section):
    """How a wrong response is cut into steps.

    Attributes:
        kind: how pieces are found: by the text's ``structure`` (``stages.segment.structure``), at a ``delimiter``, or by
            Segment Any Text (``sat``, an extra).
        split_on, cues, cues_inside_lines, min_tokens, max_tokens: ``structural``, see ``stages.segment.structure.StepRules``;
            ``None`` keeps the rule's cues.
        cut_after, cut_before: ``delimiter``: strings that end, that begin a piece.
        merge: whether pieces are merged into steps of some size (``stages.segment.merge``); ``auto`` is on for ``delimiter`` and
            ``sat``.
        merge_min_tokens, merge_target_tokens, merge_max_tokens, merge_cues: sizes of merged steps, and the words that close
            one; ``None`` keeps the rule's words.
        model, sat_tokenizer, threshold, stride, block_size, batch_size, backend, onnx_providers, device: ``sat``, see
            ``stages.segment.sat``. The threshold is 0.25 for -sm models, 0.025 for the others.
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
