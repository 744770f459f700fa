"""What generation asks of an engine: a request, an answer, and a causal LM that samples."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

from bcpg_cluster.records import StopReason
from bcpg_cluster.stages.push.protocol import WeightReceiver

MOST_LOGPROBS: Final = 20
"""Tokens at one place whose log-probs vLLM gives, unless ``max_logprobs`` says otherwise (its ModelConfig)."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """How to sample. ``temperature`` 0 is greedy; ``top_k`` 0 is off; ``max_tokens`` counts response tokens.

    ``json_schema`` (JSON text) binds the response to a schema, where the engine can; ``None`` leaves it free.
    ``num_top_logprobs`` is how many of the most probable tokens come back beside each drawn one, where the engine can. With
    ``entropy_top_k`` above 0 the entropy at every token comes with the response, from so many of the likeliest tokens.
    """

    max_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    json_schema: str | None = None
    num_top_logprobs: int = 0
    entropy_top_k: int = 0


@dataclass(frozen=True, slots=True)
class GenerateRequest:
    """One response to draw. ``seed=None`` leaves the engine's own random state in charge."""

    prompt_token_ids: tuple[int, ...]
    sampling: Sampling
    seed: int | None = None


@dataclass(frozen=True, slots=True)
class TokenChoice:
    """A drawn token beside the most probable ones of its place.

    Attributes:
        logprob: nats, of the drawn token.
        others: text and log-prob (nats) of the most probable tokens, the drawn one left out.
        floor: log-prob (nats) of the least of the most probable tokens; none that is not listed is above it.
    """

    logprob: float
    others: tuple[tuple[str, float], ...]
    floor: float


@dataclass(frozen=True, slots=True)
class TopLogprobs:
    """The most probable tokens at every place of a response, position after position in one row.

    Attributes:
        starts: where each position begins in the row; its first entry is the drawn token.
        token_ids, logprobs: the row; nats, raw as those of :class:`Generation`.
        text_of: the text of a token by itself.
    """

    starts: Sequence[int]
    token_ids: Sequence[int]
    logprobs: Sequence[float]
    text_of: Callable[[int], str]

    def at(self, position: int) -> TokenChoice:
        """The choice at ``position`` of the response."""
        start = self.starts[position]
        end = self.starts[position + 1] if position + 1 < len(self.starts) else len(self.token_ids)
        drawn, top = self.token_ids[start], range(start + 1, end)
        return TokenChoice(
            self.logprobs[start],
            tuple((self.text_of(self.token_ids[i]), self.logprobs[i]) for i in top if self.token_ids[i] != drawn),
            min((self.logprobs[i] for i in top), default=self.logprobs[start]),
        )


@dataclass(frozen=True, slots=True)
class Generation:
    """One drawn response.

    Attributes:
        token_ids: end token included when the model emitted it.
        logprobs: nats, one per token, of the model's distribution at temperature 1 (vLLM's ``raw_logprobs``). Of a response that
            is bound to a schema, over the tokens that the schema allows: vLLM masks before it takes them.
        token_texts: what each token adds to the text (see :class:`bcpg_cluster.records.Rollout`).
        policy_version: the weights that produced every token of it.
        top: the most probable tokens of every place; ``None`` where they were not asked for, or the engine has none.
        entropies: nats, one per token, at temperature 1 (``stages.generate.entropy``); none where none were asked for.
        num_cached_tokens: prompt tokens that came from the engine's prefix cache.
    """

    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    token_texts: tuple[str, ...]
    stop_reason: StopReason
    policy_version: int
    top: TopLogprobs | None = field(default=None, compare=False, repr=False)
    entropies: tuple[float, ...] = ()
    num_cached_tokens: int = field(default=0, compare=False)

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

    @property
    def max_model_len(self) -> int | None:
        """Most tokens of a prompt and its response together; ``None`` where nothing limits them."""
        ...

    def render(self, messages: Sequence[dict[str, str]]) -> tuple[int, ...]:
        """The chat template's token ids, generation prompt included; or an assistant's last message, to be continued."""
        ...

    def generate(self, requests: Sequence[GenerateRequest]) -> list[Generation]:
        """Answer all requests, in order. A request the engine gives up comes back as ``StopReason.ABORTED``.

        Every prompt is shorter than :attr:`max_model_len`; engines refuse others.

        Raises:
            EngineError: the engine itself failed; nothing of this call is usable.
        """
        ...

    def close(self) -> None:
        """Free everything. The engine is not used again."""
        ...


class RolloutEngine(TextGenerator, WeightReceiver, Protocol):
    """What a member of the rollout pool is."""
