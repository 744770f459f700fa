"""What generation asks of an engine: a request, an answer, and a causal LM that samples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from bcpg_cluster.records import StopReason
from bcpg_cluster.stages.push.protocol import WeightReceiver


@dataclass(frozen=True, slots=True)
class Sampling:
    """How to sample. ``temperature`` 0 is greedy; ``top_k`` 0 is off; ``max_tokens`` counts response tokens.

    ``json_schema`` (JSON text) binds the response to a schema, where the engine can; ``None`` leaves it free. With
    ``entropy_top_k`` above 0 the entropy at every token comes with the response, from so many of the likeliest tokens.
    """

    max_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    json_schema: str | None = None
    entropy_top_k: int = 0


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
        entropies: nats, one per token, at temperature 1 (``stages.generate.entropy``); none where none were asked for.
    """

    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    token_texts: tuple[str, ...]
    stop_reason: StopReason
    policy_version: int
    entropies: tuple[float, ...] = ()

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
        """The chat template's token ids, generation prompt included."""
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
