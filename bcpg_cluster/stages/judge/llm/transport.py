"""How an LLM judge's requests get answered: by a generator in this process, or from the cache of earlier answers.

``endpoint.openai_transport`` has the transport to an endpoint.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from bcpg_cluster.records import StopReason, VerdictStatus
from bcpg_cluster.stages.generate.protocol import GenerateRequest, Sampling, TextGenerator
from bcpg_cluster.stages.job import Sleeper
from bcpg_cluster.stages.judge.llm.cache import CachedAnswer, VerdictCache, content_seed, request_key
from bcpg_cluster.stages.judge.llm.shared_prefixes import CachesPrefixes, shareable_tokens
from bcpg_cluster.stages.judge.llm.verdict_odds import ScoredVerdict, scored_verdicts


@dataclass(frozen=True, slots=True)
class Ask:
    """One request: chat messages, the JSON schema (text) its answer is bound to, or ``None``, the seed of a transport that
    samples (``None``: whatever comes), and which of several draws of the same request it is.
    """

    messages: tuple[dict[str, str], ...]
    schema: str | None = None
    seed: int | None = None
    sample: int = 0


@dataclass(frozen=True, slots=True)
class Reply:
    """What came of one request.

    Attributes:
        failure: why there is no answer; ``None`` when there is one, still to be read.
        text: the answer, or what is known of the failure.
        prompt_tokens, answer_tokens: ``None`` where they were not counted.
        cached_tokens: prompt tokens among them that came from the engine's prefix cache.
        shareable_tokens: prompt tokens that the request shares with those sent before it in its call; 0 where no cache is known.
        cost: in the currency of the prices given; ``None`` without prices or counts.
        num_retries: tries before this one.
        is_stored: an answer of earlier, which cost nothing now.
        is_unkept: an answer that the cache could not take.
        verdicts: the verdicts in the answer with their scores; ``None`` where no log-probs came with it.
    """

    text: str = ""
    failure: VerdictStatus | None = None
    prompt_tokens: int | None = None
    answer_tokens: int | None = None
    cached_tokens: int = 0
    shareable_tokens: int = 0
    cost: float | None = None
    num_retries: int = 0
    is_stored: bool = False
    is_unkept: bool = False
    verdicts: tuple[ScoredVerdict, ...] | None = None


class Transport(Protocol):
    """Answers requests: a generator in this process, an endpoint. Thread-safe.

    One that is a :class:`~bcpg_cluster.stages.job.Sleeper` too makes its judge one.
    """

    @property
    def model(self) -> str:
        """Names the weights that answer: a digest, or endpoint and model name."""
        ...

    @property
    def decoding(self) -> Mapping[str, Any]:
        """Every setting that changes what is answered, as JSON values."""
        ...

    @property
    def is_bound(self) -> bool:
        """Whether :attr:`Ask.schema` is sent."""
        ...

    @property
    def enforces(self) -> bool:
        """Whether an answer cannot be but in the form of :attr:`Ask.schema`; false for an endpoint, which may ignore it."""
        ...

    def settings(self, *, sample: int, is_json: bool) -> str:
        """How answers are drawn, as a judge's version says it.

        Args:
            sample: which of several draws of the same request the judge is.
            is_json: whether the judge's prompt asks for JSON.
        """
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

    def close(self) -> None:
        """Free everything."""
        ...


class GeneratorTransport:
    """A :class:`Transport` over a :class:`~bcpg_cluster.stages.generate.protocol.TextGenerator`; closing it closes that.

    Args:
        model: digest of the generator's weights; names them in a judge's version and in the cache's keys.
        sampling: temperature 0 is greedy; its ``json_schema`` is set request by request.
        max_prompt_tokens: a longer prompt is not sent: its reply is ``REFUSED``.
        is_bound: whether the generator enforces schemas. Not for judges that think aloud first: it would bind their thoughts.
    """

    def __init__(
        self,
        generator: TextGenerator,
        model: str,
        sampling: Sampling,
        max_prompt_tokens: int,
        *,
        is_bound: bool = True,
    ) -> None:
        self._generator = generator
        self._model = model
        self._sampling = sampling
        self._max_prompt_tokens = max_prompt_tokens
        self._is_bound = is_bound

    @property
    def model(self) -> str:
        """The digest of the model."""
        return self._model

    @property
    def decoding(self) -> Mapping[str, Any]:
        """The sampling settings."""
        names = ("max_tokens", "temperature", "top_p", "top_k")
        added_later = {"top_logprobs": num} if (num := self._sampling.num_top_logprobs) else {}
        return {name: getattr(self._sampling, name) for name in names} | added_later

    @property
    def is_bound(self) -> bool:
        """As it was made."""
        return self._is_bound

    @property
    def enforces(self) -> bool:
        """As it was made."""
        return self._is_bound

    def settings(self, *, sample: int, is_json: bool) -> str:
        """Token limits, and what differs from a greedy judge that is bound to its schema."""
        drawn = self._sampling
        sampled = f":t{drawn.temperature:g}p{drawn.top_p:g}s{sample}" if drawn.temperature > 0.0 or sample else ""
        free = ":free" if is_json and not self._is_bound else ""
        return f"{drawn.max_tokens}:{self._max_prompt_tokens}{sampled}{free}"

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
            seed = ask.seed if self._sampling.temperature > 0.0 else None
            requests.append(GenerateRequest(token_ids, replace(self._sampling, json_schema=ask.schema), seed))
        shared = self._shareable(requests)
        for index, request, drawn, num_shared in zip(
            sent, requests, self._generator.generate(requests), shared, strict=True
        ):
            yield (
                index,
                Reply(
                    drawn.text,
                    VerdictStatus.ENGINE_LOST if drawn.stop_reason is StopReason.ABORTED else None,
                    prompt_tokens=len(request.prompt_token_ids),
                    answer_tokens=len(drawn.token_ids),
                    verdicts=None if drawn.top is None else scored_verdicts(drawn.token_texts, drawn.top.at),
                    cached_tokens=drawn.num_cached_tokens,
                    shareable_tokens=num_shared,
                ),
            )

    def _shareable(self, requests: Sequence[GenerateRequest]) -> list[int]:
        block = self._generator.prefix_block_tokens if isinstance(self._generator, CachesPrefixes) else None
        if block is None:
            return [0] * len(requests)
        return shareable_tokens([request.prompt_token_ids for request in requests], block)

    def sleep(self) -> bool:
        """See :class:`~bcpg_cluster.stages.job.Sleeper`; false for a generator that cannot sleep."""
        return isinstance(self._generator, Sleeper) and self._generator.sleep()

    def wake_up(self) -> None:
        """See :class:`~bcpg_cluster.stages.job.Sleeper`."""
        if isinstance(self._generator, Sleeper):
            self._generator.wake_up()

    def close(self) -> None:
        """Close the generator."""
        self._generator.close()


def seeded(ask: Ask, transport: Transport, run_seed: int | None) -> Ask:
    """The request with the seed that its content and the run give it; as it is without a run's seed."""
    if run_seed is None:
        return ask
    key = request_key(transport.model, ask.messages, ask.schema, transport.decoding, ask.sample)
    return replace(ask, seed=content_seed(run_seed, key))


def after_marker(text: str, marker: str | None) -> str | None:
    """What follows the last ``marker`` of a judge that thinks aloud; ``None`` where it never came. Without one, the whole text."""
    if marker is None:
        return text
    _, found, tail = text.rpartition(marker)
    return tail if found else None


def cached_answers(
    transport: Transport, cache: VerdictCache | None, asks: Sequence[Ask]
) -> Iterator[tuple[int, Reply]]:
    """As :meth:`Transport.answers`: stored answers first, then the others as they come, each request asked once.

    Answers are stored as they come, so that a killed call loses only what was under way. Failures are not stored. Without a cache
    every request is sent.
    """
    if cache is None:
        yield from transport.answers(asks)
        return
    model, decoding = transport.model, transport.decoding
    waiting: dict[str, list[int]] = {}
    for index, ask in enumerate(asks):
        key = request_key(model, ask.messages, ask.schema, decoding, ask.sample)
        stored = cache.get(key) if key not in waiting else None
        if stored is None:
            waiting.setdefault(key, []).append(index)
        else:
            yield index, _stored(stored)
    keys = list(waiting)
    for place, reply in transport.answers([asks[waiting[key][0]] for key in keys]):
        answer = CachedAnswer(reply.text, reply.prompt_tokens, reply.answer_tokens, reply.verdicts)
        if reply.failure is None and not cache.put(keys[place], answer):
            reply = replace(reply, is_unkept=True)
        first, *others = waiting[keys[place]]
        yield first, reply
        for index in others:
            yield index, reply if reply.failure else _stored(answer)


def _stored(answer: CachedAnswer) -> Reply:
    return Reply(
        answer.text,
        prompt_tokens=answer.prompt_tokens,
        answer_tokens=answer.answer_tokens,
        cost=0.0,
        is_stored=True,
        verdicts=answer.verdicts,
    )
