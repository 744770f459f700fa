"""How an LLM judge's requests get answered: by a generator in this process, or from the cache of earlier answers.

``openai_judge`` has the transport to an endpoint.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from bcpg_cluster.records import StopReason, VerdictStatus
from bcpg_cluster.stages.generate.protocol import GenerateRequest, Sampling, TextGenerator
from bcpg_cluster.stages.judge.cache import CachedAnswer, VerdictCache, request_key


@dataclass(frozen=True, slots=True)
class Ask:
    """One request: chat messages, and the JSON schema (text) its answer is bound to, or ``None``."""

    messages: tuple[dict[str, str], ...]
    schema: str | None = None


@dataclass(frozen=True, slots=True)
class Reply:
    """What came of one request.

    Attributes:
        failure: why there is no answer; ``None`` when there is one, still to be read.
        text: the answer, or what is known of the failure.
        prompt_tokens, answer_tokens: ``None`` where nobody counted them.
        cached_tokens: prompt tokens among them that came from the engine's prefix cache.
        cost: in the currency of the prices given; ``None`` without prices or counts.
        num_retries: tries before this one.
        is_stored: an answer of earlier, which cost nothing now.
    """

    text: str = ""
    failure: VerdictStatus | None = None
    prompt_tokens: int | None = None
    answer_tokens: int | None = None
    cached_tokens: int = 0
    cost: float | None = None
    num_retries: int = 0
    is_stored: bool = False


class Transport(Protocol):
    """Answers requests. Thread-safe."""

    @property
    def model(self) -> str:
        """Names the weights that answer: a digest, or endpoint and model name."""
        ...

    @property
    def decoding(self) -> Mapping[str, Any]:
        """Every setting that changes what is answered, as JSON values."""
        ...

    def count_tokens(self, text: str) -> int:
        """About how many tokens ``text`` has; never far below the truth."""
        ...

    def answers(self, asks: Sequence[Ask]) -> Iterator[tuple[int, Reply]]:
        """The reply to every request with its index, as they come.

        Raises:
            EngineError: the engine itself failed.
            ConfigError: the endpoint does not know the model or refuses the key.
        """
        ...

    def health(self) -> dict[str, float]:
        """Numbers for dashboards."""
        ...

    def close(self) -> None:
        """Free everything."""
        ...


class GeneratorTransport:
    """A :class:`Transport` over a :class:`~bcpg_cluster.stages.generate.protocol.TextGenerator`; closing it closes that.

    Args:
        max_prompt_tokens: a longer prompt is not sent: its reply is ``REFUSED``.
    """

    def __init__(self, generator: TextGenerator, model: str, sampling: Sampling, max_prompt_tokens: int) -> None:
        self._generator = generator
        self._model = model
        self._sampling = sampling
        self._max_prompt_tokens = max_prompt_tokens

    @property
    def model(self) -> str:
        """The digest of the model."""
        return self._model

    @property
    def decoding(self) -> Mapping[str, Any]:
        """The sampling settings."""
        names = ("max_tokens", "temperature", "top_p", "top_k")
        return {name: getattr(self._sampling, name) for name in names}

    def count_tokens(self, text: str) -> int:
        """Tokens of ``text`` as a message, the chat template's own included."""
        return len(self._generator.render([{"role": "user", "content": text}]))

    def answers(self, asks: Sequence[Ask]) -> Iterator[tuple[int, Reply]]:
        """All requests go to the generator at once."""
        sent: list[int] = []
        requests: list[GenerateRequest] = []
        for index, ask in enumerate(asks):
            token_ids = self._generator.render(ask.messages)
            if len(token_ids) > self._max_prompt_tokens:
                yield index, Reply(failure=VerdictStatus.REFUSED)
                continue
            sent.append(index)
            requests.append(GenerateRequest(token_ids, replace(self._sampling, json_schema=ask.schema)))
        for index, request, drawn in zip(sent, requests, self._generator.generate(requests), strict=True):
            yield (
                index,
                Reply(
                    drawn.text,
                    VerdictStatus.ENGINE_LOST if drawn.stop_reason is StopReason.ABORTED else None,
                    prompt_tokens=len(request.prompt_token_ids),
                    answer_tokens=len(drawn.token_ids),
                ),
            )

    def health(self) -> dict[str, float]:
        """The generator's."""
        return self._generator.health()

    def close(self) -> None:
        """Close the generator."""
        self._generator.close()


class CachedTransport:
    """A :class:`Transport` that asks another only what the cache does not hold, and each request of a call once.

    Answers are stored as they come, so that a killed call loses only what was under way. Failures are not stored.
    """

    def __init__(self, transport: Transport, cache: VerdictCache, *, sample: int = 0) -> None:
        self._transport, self._cache, self._sample = transport, cache, sample
        self.model = transport.model
        self.decoding = json.loads(json.dumps(dict(transport.decoding)))

    def count_tokens(self, text: str) -> int:
        """The transport's count."""
        return self._transport.count_tokens(text)

    def answers(self, asks: Sequence[Ask]) -> Iterator[tuple[int, Reply]]:
        """Stored answers first, then the others as they come."""
        waiting: dict[str, list[int]] = {}
        for index, ask in enumerate(asks):
            key = request_key(self.model, ask.messages, ask.schema, self.decoding, self._sample)
            stored = self._cache.get(key) if key not in waiting else None
            if stored is None:
                waiting.setdefault(key, []).append(index)
            else:
                yield index, _stored(stored)
        keys = list(waiting)
        for place, reply in self._transport.answers([asks[waiting[key][0]] for key in keys]):
            answer = CachedAnswer(reply.text, reply.prompt_tokens, reply.answer_tokens)
            if reply.failure is None:
                self._cache.put(keys[place], answer)
            first, *others = waiting[keys[place]]
            yield first, reply
            for index in others:
                yield index, reply if reply.failure else _stored(answer)

    def health(self) -> dict[str, float]:
        """The transport's numbers and the cache's."""
        return {**self._transport.health(), **self._cache.counts()}

    def close(self) -> None:
        """Close the transport."""
        self._transport.close()


def _stored(answer: CachedAnswer) -> Reply:
    return Reply(
        answer.text, prompt_tokens=answer.prompt_tokens, answer_tokens=answer.answer_tokens, cost=0.0, is_stored=True
    )
