"""A language model says where steps begin; what it cannot say is cut by the structure of the text, and counted."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from bcpg_cluster.cluster.liveness.progress import present_work
from bcpg_cluster.errors import EngineError
from bcpg_cluster.records import Step, VerdictStatus
from bcpg_cluster.stages.judge.llm.cache import VerdictCache
from bcpg_cluster.stages.judge.llm.transport import Ask, Reply, Transport, after_marker, cached_answers, seeded
from bcpg_cluster.stages.segment.llm.counts import FALLBACK
from bcpg_cluster.stages.segment.llm.lines import AGAIN, NumberedLines, read_starts, starts_schema
from bcpg_cluster.stages.segment.merge import MergeRules, merge_pieces
from bcpg_cluster.stages.segment.protocol import SampledResponse, Segmented
from bcpg_cluster.stages.segment.segmenters import Segmenter


@dataclass(frozen=True, slots=True)
class LlmOptions:
    """How the model is asked.

    Attributes:
        fallback: cuts a response of which a part stays unreadable after a second try, or was refused.
        max_lines: most numbered lines in one question.
        merge: how pieces become steps; ``None`` makes a step of every piece.
        answer_after: for models that think aloud: only what follows the last such marker is the answer.
        sample: which of several draws of the same request is taken.
        run_seed: seeds sampled answers, with the content of the request; ``None`` leaves them to chance.
    """

    fallback: Segmenter
    max_lines: int = 200
    merge: MergeRules | None = None
    answer_after: str | None = None
    sample: int = 0
    run_seed: int | None = None


@dataclass(frozen=True, slots=True)
class _Part:
    """A question: lines ``first..last`` of a response."""

    response: int
    first: int
    last: int


class LlmSegmenter:
    """A :class:`~bcpg_cluster.stages.segment.protocol.ResponseSegmenter` that asks over a judge's transport.

    Its counts are ``llm.calls``, ``llm.calls.stored`` (answered by the cache), ``llm.calls.repair`` and ``llm.calls.repaired``
    (second tries of unreadable answers, and those that helped), ``llm.prompt_tokens`` and ``llm.answer_tokens`` of what was not
    stored, and ``llm.fallback.unreadable`` and ``llm.fallback.refused``: responses that were cut by the fallback.

    Args:
        transport: of the judge whose model is asked; not closed here.
        cache: answers of earlier runs; ``None`` asks always.
    """

    def __init__(self, transport: Transport, options: LlmOptions, cache: VerdictCache | None = None) -> None:
        self._transport, self._options, self._cache = transport, options, cache

    def cut(self, responses: Sequence[SampledResponse]) -> Segmented:
        """The steps of every response; one of a single line is not asked about.

        Raises:
            EngineError: a question got no answer, for a reason that is not its own (the engine or endpoint failed, or time ran
                out): it may be asked again elsewhere.
        """
        counts: dict[str, float] = defaultdict(float)
        lines = [NumberedLines.of(response.token_texts) for response in responses]
        parts = [
            _Part(index, *part)
            for index, of_response in enumerate(lines)
            if len(of_response.begins) > 1
            for part in of_response.parts(self._options.max_lines)
        ]
        starts: list[list[int]] = [[] for _ in responses]
        failed: dict[int, str] = {}
        for part, said in zip(parts, self._asked(parts, lines, counts), strict=True):
            if isinstance(said, str):
                failed[part.response] = said
            else:
                starts[part.response] += said
        for why in failed.values():
            counts[f"{FALLBACK}{why}"] += 1
        steps = [
            self._options.fallback(response.token_texts)
            if index in failed
            else self._steps(response.token_texts, lines[index], starts[index])
            for index, response in enumerate(responses)
        ]
        return Segmented(steps, dict(counts))

    def _steps(self, token_texts: Sequence[str], lines: NumberedLines, starts: Sequence[int]) -> list[Step]:
        return merge_pieces(token_texts, [lines.begins[number - 1] for number in starts], self._options.merge)

    def _asked(
        self, parts: Sequence[_Part], lines: Sequence[NumberedLines], counts: dict[str, float]
    ) -> list[tuple[int, ...] | str]:
        """Of every part the lines that begin a step, or why it is not known; what cannot be read is asked once more."""
        asks = [self._ask(part, lines[part.response].messages(part.first, part.last)) for part in parts]
        replies = self._replies(asks, counts)
        said = [self._read(reply, part) for reply, part in zip(replies, parts, strict=True)]
        unread = [index for index, of_part in enumerate(said) if of_part == "unreadable"]
        again = [self._ask(parts[index], self._repair(asks[index], replies[index], parts[index])) for index in unread]
        for index, reply in zip(unread, self._replies(again, counts), strict=True):
            counts["llm.calls.repair"] += 1
            second = self._read(reply, parts[index])
            if not isinstance(second, str):
                counts["llm.calls.repaired"] += 1
                said[index] = second
        return said

    def _ask(self, part: _Part, messages: Sequence[dict[str, str]]) -> Ask:
        options, transport = self._options, self._transport
        # A schema would bind the thoughts before the marker.
        is_bound = transport.is_bound and options.answer_after is None
        schema = starts_schema(part.first, part.last) if is_bound else None
        return seeded(Ask(tuple(messages), schema, sample=options.sample), transport, options.run_seed)

    def _repair(self, ask: Ask, reply: Reply, part: _Part) -> tuple[dict[str, str], ...]:
        wanted = AGAIN.replace("<first>", str(part.first)).replace("<last>", str(part.last))
        said = {"role": "assistant", "content": self._tail(reply.text)}
        return (*ask.messages, said, {"role": "user", "content": wanted})

    def _replies(self, asks: Sequence[Ask], counts: dict[str, float]) -> list[Reply]:
        replies: dict[int, Reply] = {}
        for index, reply in cached_answers(self._transport, self._cache, asks):
            present_work().mark()
            if reply.failure not in (None, VerdictStatus.REFUSED):
                raise EngineError(
                    f"segment.kind llm: {self._transport.model} gave no answer ({reply.failure}): {reply.text:.200}"
                )
            replies[index] = reply
            counts["llm.calls"] += 1
            if reply.is_stored:
                counts["llm.calls.stored"] += 1
            else:
                counts["llm.prompt_tokens"] += reply.prompt_tokens or 0
                counts["llm.answer_tokens"] += reply.answer_tokens or 0
        return [replies[index] for index in range(len(asks))]

    def _read(self, reply: Reply, part: _Part) -> tuple[int, ...] | str:
        if reply.failure is not None:
            return "refused"
        starts = read_starts(self._tail(reply.text), part.first, part.last)
        return "unreadable" if starts is None else starts

    def _tail(self, text: str) -> str:
        """What follows the marker; nothing where it never came."""
        return after_marker(text, self._options.answer_after) or ""
