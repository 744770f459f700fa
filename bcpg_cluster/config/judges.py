"""The sections of judges and of the endpoints they ask."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from bcpg_cluster.config.section import Section, check_not_in_engine_args


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
        check_not_in_engine_args(self.engine_args, "judges.<name>", ("trust_remote_code",))
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
