"""The sections of judges, of the endpoints they ask, and of what becomes of their verdicts."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from bcpg_cluster.config.identity import Decides, FirstReadBy
from bcpg_cluster.config.section import Section, check_class, check_not_in_engine_args
from bcpg_cluster.records import StepRule


class EndpointConfig(Section):
    """An OpenAI-compatible endpoint (a vendor's, a vLLM server's, Ray Serve's) for a judge of kind ``openai``.

    Limits hold for each process of the judge's pool: divide by its members.
    """

    base_url: str
    """The endpoint's address, up to and including ``/v1``."""
    api_key_env: Annotated[str | None, Decides.NEVER] = None
    """Environment variable that holds the key; it is read where the judge runs and stored nowhere. ``null`` sends no key."""
    token_limit_field: Annotated[Literal["max_tokens", "max_completion_tokens"], Decides.NEVER] = "max_tokens"
    """The endpoint's name for the limit on answer tokens."""
    structured: Literal["json_schema", "strict", "json_object", "none"] = "json_schema"
    """How the answer's JSON schema is sent (``strict`` for OpenAI)."""
    extra_body: dict[str, Any] = Field(default_factory=dict)
    """Further fields of the request, sent untouched."""
    send_seed: Annotated[bool, Decides.WHEN_SET] = False
    """Send a ``seed`` made from the request's content and the run's seed where answers are sampled (``temperature`` above 0), so
    that a second try draws the same; for endpoints that know the field."""
    top_logprobs: Annotated[int, Decides.WHEN_SET] = Field(20, ge=2, le=20)
    """``says: probability``: how many of the most probable tokens to ask for at each place; some endpoints allow fewer than 20."""
    timeout_s: Annotated[float, Decides.NEVER] = Field(120.0, gt=0)
    """Seconds for one try, from its start to the last byte of the answer."""
    call_timeout_s: Annotated[float | None, Decides.NEVER] = Field(None, gt=0)
    """Seconds for one call with all its tries and waits; ``null`` is ``(max_retries + 1) * (timeout_s + 60)``."""
    max_retries: Annotated[int, Decides.NEVER] = Field(5, ge=0)
    """Tries after the first, each after a longer wait."""
    give_up_after: Annotated[int, Decides.NEVER] = Field(20, ge=1)
    """Calls in a row that may end without an answer (timeout, 5xx, no connection, all tries used) before the lease fails."""
    max_unanswered: Annotated[float, Decides.NEVER] = Field(0.5, ge=0, le=1)
    """Largest share of a shard's steps that may stay unanswered; above it the shard is judged again, and after
    ``pools.<name>.max_attempts`` the run stops."""
    requests_per_minute: Annotated[float | None, Decides.NEVER] = Field(None, gt=0)
    """Most requests sent in a minute; ``null`` is no limit."""
    tokens_per_minute: Annotated[float | None, Decides.NEVER] = Field(None, gt=0)
    """Most prompt and answer tokens requested in a minute; ``null`` is no limit."""
    concurrency: Annotated[int, Decides.NEVER] = Field(8, ge=1)
    """Most requests open at once."""
    price_prompt: Annotated[float | None, Decides.NEVER] = Field(None, ge=0)
    """Price of a million prompt tokens; ``null``, and then for ``price_answer`` too, adds up no costs."""
    price_answer: Annotated[float | None, Decides.NEVER] = Field(None, ge=0)
    """Price of a million answer tokens."""
    price_cached_prompt: Annotated[float | None, Decides.NEVER] = Field(None, ge=0)
    """Price of a million prompt tokens that the endpoint had cached; ``null`` is the full price."""

    @model_validator(mode="after")
    def _prices_go_together(self) -> EndpointConfig:
        if (self.price_prompt is None) != (self.price_answer is None):
            raise ValueError("price_prompt and price_answer are given together or not at all")
        return self

    @model_validator(mode="after")
    def _one_seed(self) -> EndpointConfig:
        if self.send_seed and "seed" in self.extra_body:
            raise ValueError("send_seed makes a seed for each request, so extra_body has no seed of its own")
        return self


class JudgeConfig(Section):
    """One judge of the ensemble. A section for each, by a name of your choice."""

    kind: Literal["llm", "openai", "prm", "python", "chain_truth", "sums_truth", "fake"]
    """``llm`` is a model in vLLM; ``openai`` asks an endpoint; ``prm`` is a process reward model; ``python`` is a judge of
    yours; ``chain_truth`` and ``sums_truth`` know the truth of an embedded task; ``fake`` is for tests."""
    role: Annotated[Literal["vote", "measure", "spare"], FirstReadBy("weigh")] = "vote"
    """``vote`` takes part in the consensus; ``measure`` is only compared with it (the truth, where it is known); ``spare``
    judges too, and its verdicts are kept for a later `weigh` that gives it another role."""
    after: Annotated[tuple[str, ...], Decides.WHEN_SET, FirstReadBy("weigh")] = ()
    """Judges (one name or a list) that are asked first: this one is asked only about what they leave open, which costs less and
    changes no label. For voters, under ``weigh.rule`` ``all`` or ``any``. `bcpg-cluster stage weigh` asks what a change makes
    necessary."""
    rule: Annotated[StepRule, Decides.WHEN_SET] = "propagated"
    """When a step is right: ``propagated`` calls what builds on a mistake wrong until it is corrected (the paper); ``local``
    judges each step by itself, given what is written before it. ``prm``: what the model was taught."""
    model: str | None = None
    """The judge's model, needed for ``llm`` and ``prm`` (given like ``policy.model``) and for ``openai`` (the endpoint's name)."""
    engine_args: dict[str, Any] = Field(default_factory=dict)
    """``llm`` and ``prm``: options of this judge's engine, like ``policy.engine_args``."""
    trust_remote_code: Annotated[bool, Decides.WHEN_SET] = False
    """``llm`` and ``prm``: run Python code that comes with the model."""
    prompt: str = "embedded:taxonomy"
    """``llm`` and ``openai``: the judge prompt, ``embedded:NAME`` or a TOML file."""
    view: Literal["causal", "full"] = "full"
    """``causal`` shows steps 0..k for the verdict on step k (the paper's notation); ``full`` asks for all verdicts in one call."""
    show_gold: bool = False
    """Show the judge the gold answer."""
    max_tokens: int = Field(512, ge=1)
    """Longest answer of the judge, in tokens; JSON with reasons takes about 90 a step."""
    window_steps: int | None = Field(None, ge=1)
    """Most steps that one call of the full view asks about; ``null`` is no limit."""
    window_tokens: int | None = Field(None, ge=1)
    """Most tokens in the steps that one call of the full view asks about; ``null`` is no limit."""
    look_ahead: bool = False
    """Let a window also show the steps after it."""
    temperature: float = Field(0.0, ge=0)
    """Sampling temperature of the judge; 0 is greedy."""
    top_p: float = Field(1.0, gt=0, le=1)
    """Nucleus sampling of the judge; 1 is off."""
    sample: int = Field(0, ge=0)
    """Which draw of the same request this judge is, so that several judges can ask one model alike and differ."""
    votes: Annotated[int, Decides.WHEN_SET] = Field(1, ge=1)
    """``llm`` and ``openai``: how many answers to draw of each request. From 2 on the judge scores: the share of votes that say
    right (with ``says: probability`` their mean). Needs ``temperature`` above 0."""
    says: Annotated[Literal["label", "probability"], Decides.WHEN_SET] = "label"
    """``llm`` and ``openai``: ``label`` is the verdict as written; ``probability`` is P(right) from the log-probs of the token
    that decides it, a score."""
    answer_after: str | None = None
    """Marker after which the answer begins, for instance ``</think>``; ``null`` reads the whole text."""
    structured: Literal["schema", "none"] = "schema"
    """``llm``: ``schema`` has vLLM enforce the JSON prompt's schema; ``none`` is for judges that think aloud first, which the
    schema would prevent."""
    run_code: Annotated[bool, Decides.WHEN_SET] = False
    """``llm`` with the prompt ``genprm``: run the programs that the judge writes, in the sandbox of ``verify.kind: code``, and let
    it continue from what they print; ``false`` leaves it with what it expects them to print."""
    cache: Annotated[str | None, Decides.NEVER] = None
    """Directory of answers shared between runs; ``null`` shares none."""
    endpoint: EndpointConfig | None = None
    """``openai``, and needed there: the endpoint to ask."""
    threshold: Annotated[float, FirstReadBy("weigh")] = Field(0.5, ge=0, le=1)
    """Lambda of Eq. 4, for judges that score; applied when weights are made, never when judging."""
    convention: Literal["auto", "qwen", "math_shepherd", "rlhflow", "skywork", "trl", "implicit", "pathfinder"] = "auto"
    """``prm``: how steps are shown to the model; ``auto`` goes by its architecture or name."""
    engine: Literal["auto", "vllm", "transformers"] = "auto"
    """``prm``: what runs the model; ``auto`` is transformers for skywork, trl, implicit and pathfinder, else vLLM."""
    reference_model: Annotated[str | None, Decides.WHEN_SET] = None
    """``implicit``, and needed there: the model that the process reward model was trained from."""
    reward_beta: Annotated[float, Decides.WHEN_SET] = Field(0.001, gt=0)
    """``implicit``: beta of a step's reward, beta * (log p of the model - log p of ``reference_model``); its sigmoid is the
    score."""
    context_tokens: int = Field(512, ge=0)
    """``prm``: least number of earlier tokens that a later window over a long response shows, at most half the model's
    context."""
    separator: str | None = None
    """``prm``: the step token; ``null`` is the one the model's family was trained with."""
    system: str | None = None
    """``prm``: the system message; ``null`` is the one the model's family was trained with."""
    class_: Annotated[str | None, Decides.WHEN_SET] = Field(None, alias="class")
    """``python``, and needed there: your judge class, as ``file.py:Name`` or ``package.module:Name``."""
    class_digest: Annotated[str | None, Decides.WHEN_SET] = None
    """``python``: names the content of the judge class's file; filled in when the config is read, so that an edited file is another
    run."""
    options: Annotated[dict[str, Any], Decides.WHEN_SET] = Field(default_factory=dict)
    """``python``: keyword arguments the judge is made with."""
    precision: float = Field(0.9, ge=0, le=1)
    """``fake``: share of the steps it calls right that are right."""
    recall: float = Field(0.8, ge=0, le=1)
    """``fake``: share of the right steps that it calls right."""
    pool: str | None = None
    """The pool it runs in; ``null`` is ``judge.<name>`` (``prm`` for the judge of that name, ``cpu`` for the truths and
    ``fake``)."""

    @field_validator("after", mode="before")
    @classmethod
    def _one_name_is_a_list(cls, after: Any) -> Any:
        return () if after is None else (after,) if isinstance(after, str) else after

    @model_validator(mode="after")
    def _one_place_each(self) -> JudgeConfig:
        check_not_in_engine_args(self.engine_args, "judges.<name>", ("trust_remote_code",))
        return self

    @model_validator(mode="after")
    def _class_is_named(self) -> JudgeConfig:
        check_class(self.kind, self.class_, self.options)
        return self

    @model_validator(mode="after")
    def _needs_a_model(self) -> JudgeConfig:
        if self.kind in ("llm", "openai", "prm") and not self.model:
            raise ValueError(f"a judge of kind {self.kind!r} needs a model")
        if (self.kind == "openai") != (self.endpoint is not None):
            raise ValueError("a judge of kind 'openai' needs an endpoint section, and no other kind takes one")
        if self.structured != "schema" and self.kind != "llm":
            raise ValueError("structured is for judges of kind 'llm'; for an endpoint, set endpoint.structured")
        if self.run_code and self.kind != "llm":
            raise ValueError(
                "run_code is for judges of kind 'llm': an endpoint does not continue an answer that has begun"
            )
        return self

    @model_validator(mode="after")
    def _reference_is_for_implicit(self) -> JudgeConfig:
        can_have = self.kind == "prm" and self.convention in ("auto", "implicit")
        if self.reference_model is not None and not can_have:
            raise ValueError("reference_model is for judges of kind 'prm' and convention 'implicit'")
        if self.reference_model is None and self.convention == "implicit":
            raise ValueError("a judge of convention 'implicit' needs a reference_model, the model it was trained from")
        if self.reference_model is None and self.reward_beta != 0.001:
            raise ValueError("reward_beta is for judges of convention 'implicit', which have a reference_model")
        return self

    @model_validator(mode="after")
    def _scores_can_be_made(self) -> JudgeConfig:
        if (self.votes > 1 or self.says != "label") and self.kind not in ("llm", "openai"):
            raise ValueError(f"votes and says are for judges of kind 'llm' and 'openai', not {self.kind!r}")
        if self.votes > 1 and self.temperature == 0.0:
            raise ValueError(
                f"votes is {self.votes}, but temperature 0 draws the same answer each time; set temperature above 0 (0.7 is "
                "usual), or votes to 1"
            )
        return self

    @property
    def only_labels(self) -> bool:
        """Whether its verdicts are known to be labels, so that it has no threshold."""
        if self.kind in ("llm", "openai"):
            return self.votes == 1 and self.says == "label"
        return self.kind in ("chain_truth", "sums_truth")


class WeighConfig(Section):
    """How verdicts become token weights (Eqs. 3-7)."""

    rule: Literal["all", "any", "majority", "k_of_n", "weighted"] = "all"
    """How voters decide that a step is right: ``all`` is the paper's AND; ``majority`` wants more than half of them, ``k_of_n``
    wants ``num_needed``, ``any`` one; ``weighted`` adds up log-odds."""
    abstention: Literal["against", "left_out"] = "against"
    """A voter without an answer counts ``against`` the step, or is ``left_out`` of the count."""
    num_needed: int | None = Field(None, ge=1)
    """``k_of_n``, and needed there: k, the number of votes."""
    accuracies: dict[str, float] = Field(default_factory=dict)
    """``weighted``, and needed there: each voter's accuracy, in [0.5, 1) (`judge-eval` measures it)."""
    prior: float = Field(0.5, gt=0, lt=1)
    """``weighted``: probability that a step is right before any judge is asked."""
    beta: float = Field(0.5, ge=-1, le=1)
    """Beta of Eq. 7, the weight of mined tokens: 1 is plain BCPG, 0 removes their penalty."""
    min_verified_share: Annotated[float, FirstReadBy("segment")] = Field(0.5, ge=0, le=1)
    """Drop a group whole when a smaller share of its samples is verified."""
    max_missing_share: Annotated[float, Decides.NEVER] = Field(0.5, ge=0, le=1)
    """Largest share of a round's steps that may have no verdict of a voter (unparsable, timeout, engine lost), or that the voters
    together cannot decide since verdicts are missing; above it the run stops and says why."""
    truncated: Literal["negative", "mask", "drop"] = "negative"
    """What a response cut off at the token limit counts as: a ``negative`` (the paper's data); in rbar but not trained on
    (``mask``); in neither (``drop``)."""
    flip_rate: float = Field(0.0, ge=0, le=1)
    """Share of the step labels to flip at random, by the run's seed, to see how much judge quality matters."""
    mine: Annotated[Literal["consensus", "prefix"], Decides.WHEN_SET] = "consensus"
    """Which steps of a wrong response are mined: all that the ``consensus`` calls right, or only the ``prefix``, those before
    the first step that it calls wrong or cannot decide."""
