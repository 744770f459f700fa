"""The sections of the policy and of how it is sampled: in rounds, and for the benchmark."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from bcpg_cluster.config.identity import Decides
from bcpg_cluster.config.section import Section, check_not_in_engine_args

FAKE_MODELS = ("fake", "fake:garbage", "fake:empty", "fake:endless", "fake:aborted")


class PolicyConfig(Section):
    """The model to train.

    A fake policy's model is ``fake``, or ``fake:garbage``, ``fake:empty``, ``fake:endless``, ``fake:aborted`` to see what a run
    makes of such responses.
    """

    model: str
    """The start model: ``embedded:NAME``, a directory in Hugging Face format, or a hub id."""
    kind: Literal["vllm", "fake"] = "vllm"
    """What generates: vLLM; ``fake`` draws responses from a table, for tests."""
    revision: Annotated[str | None, Decides.WHEN_SET] = None
    """Branch, tag or commit of a hub id, for engines and trainer alike; ``null`` is the hub's default branch."""
    trust_remote_code: Annotated[bool, Decides.WHEN_SET] = False
    """Run Python code that comes with the model, in the engines, the trainer and the tokenizer."""
    engine_args: dict[str, Any] = Field(default_factory=dict)
    """vLLM's own options, passed through untouched and checked by vLLM's parser."""

    @model_validator(mode="after")
    def _one_place_each(self) -> PolicyConfig:
        check_not_in_engine_args(self.engine_args, "policy", ("trust_remote_code", "revision"))
        return self

    @model_validator(mode="after")
    def _fakes_by_name(self) -> PolicyConfig:
        if self.kind == "fake" and self.model not in FAKE_MODELS:
            raise ValueError(f"model {self.model!r} is not a fake; the fakes are {', '.join(FAKE_MODELS)}")
        return self


class GenerateConfig(Section):
    """How the policy is sampled in a round."""

    group_size: int = Field(16, ge=2)
    """G, the number of responses to each prompt."""
    temperature: float = Field(1.0, gt=0)
    """Sampling temperature of the behaviour policy."""
    top_p: float = Field(1.0, gt=0, le=1)
    """Nucleus sampling: the probability mass to sample from; 1 is off."""
    top_k: int = Field(0, ge=0)
    """Sample from this many of the likeliest tokens; 0 is off."""
    max_tokens: int = Field(ge=1)
    """Longest response, in tokens; one that reaches it counts as truncated."""
    prompts_per_shard: int = Field(32, ge=1)
    """Prompts in a shard, the unit of work; a group is never split."""
    entropy_top_k: Annotated[int | None, Decides.WHEN_SET] = Field(None, ge=0)
    """Store the sampler's entropy at every token, from this many of its likeliest tokens (a lower bound: the rest counts as one
    token); 0 stores none. ``null`` is 20 with ``segment.kind: entropy``, else 0."""
    seed_per_request: bool = True
    """Make every sample reproducible by itself; on GPUs this switches off vLLM's fast sampler."""


class EvaluateConfig(Section):
    """How the policy is measured on the test prompts, the same way every round."""

    num_prompts: int | None = Field(None, ge=1)
    """Measure on the first this many test prompts; ``null`` is all."""
    num_samples: int = Field(4, ge=1)
    """Sampled responses to each prompt: n of avg@n, and the largest k of pass@k."""
    temperature: float = Field(1.0, gt=0)
    """Temperature of the sampled responses."""
    top_p: float = Field(1.0, gt=0, le=1)
    """Nucleus sampling of the sampled responses; 1 is off."""
    greedy: bool = True
    """Also generate one greedy response to each prompt."""
    max_tokens: int | None = Field(None, ge=1)
    """Longest response, in tokens; ``null`` takes ``generate.max_tokens``."""
    prompts_per_shard: int = Field(64, ge=1)
    """Test prompts in a shard."""
    at_once: Annotated[bool, Decides.NEVER] = False
    """Whether a version is measured before the next round begins, for whoever decides by the number; else, with an overlapped
    ``pipeline``, while the next round trains. The last round of a command, and round 0, are always measured at once."""
