"""An LLM judge: a prompt, anything that answers it, and a strict reading of the answer."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Literal

from bcpg_cluster.errors import EngineError
from bcpg_cluster.records import VerdictStatus
from bcpg_cluster.stages.generate.protocol import Sampling, TextGenerator
from bcpg_cluster.stages.job import Sleeper
from bcpg_cluster.stages.judge.answer_schema import parse_answer, verdict_schema
from bcpg_cluster.stages.judge.cache import VerdictCache
from bcpg_cluster.stages.judge.judge_prompt import JudgePrompt, render_judge_messages, render_repair
from bcpg_cluster.stages.judge.protocol import JudgeCase, Judgement
from bcpg_cluster.stages.judge.transport import Ask, CachedTransport, GeneratorTransport, Reply, Transport
from bcpg_cluster.stages.judge.windows import cut_windows

View = Literal["causal", "full"]


@dataclass(frozen=True, slots=True)
class WindowLimits:
    """How much of a long response one call of the ``full`` view asks about; ``None`` is no limit.

    Attributes:
        steps: most steps of a window (8 to 16 suit instruct models).
        tokens: most tokens of the steps asked about; a longer step gets a window of its own.
        looks_ahead: a window also shows the steps after it. Otherwise it shows steps 0 to its last.
    """

    steps: int | None = None
    tokens: int | None = None
    looks_ahead: bool = False

    def __str__(self) -> str:
        """Short, for a judge's version: ``w8x0`` is 8 steps and any number of tokens."""
        return f"w{self.steps or 0}x{self.tokens or 0}{'+' if self.looks_ahead else ''}"


@dataclass(frozen=True, slots=True)
class _Question:
    """One call of the judge: steps ``first..last`` of a case."""

    case: int
    first: int
    last: int


class TransportJudge:
    """A :class:`~bcpg_cluster.stages.judge.protocol.Judge` over any :class:`~bcpg_cluster.stages.judge.transport.Transport`.

    Args:
        transport: owned from here on: closing the judge closes it.
        view: ``causal`` asks about one step at a time and hides what comes after it (Eq. 3: phi(x, STEP_{:k})); all
            calls go out at once. ``full`` asks about all steps of a window in one call; where the prompt has a place
            for it, a window is told what earlier windows found wrong, and so waits for them. The prompt starts with its
            static part and the steps grow at its end, so the calls of one response share a cached prefix.
        windows: of the ``full`` view; by default a response is one window.
        answer_after: for judges that think aloud: only what follows the last such marker is the answer (``</think>``).
        is_bound: whether the engine is to enforce the JSON schema of a prompt that asks for JSON. Not for judges that think
            aloud first: it would bind their thoughts. What they answer is read as strictly.
        settings: of the transport, as they appear in :attr:`version`.
    """

    def __init__(
        self,
        transport: Transport,
        name: str,
        prompt: JudgePrompt,
        view: View,
        *,
        settings: str,
        windows: WindowLimits = WindowLimits(),
        answer_after: str | None = None,
        is_bound: bool = True,
    ) -> None:
        self.name = name
        self._transport = transport
        self._prompt = prompt
        self._view = view
        self._settings = settings
        self._windows = windows
        self._answer_after = answer_after
        self._is_bound = is_bound
        self._lost_account: dict[str, float] = defaultdict(float)
        self._lock = threading.Lock()

    @property
    def version(self) -> str:
        """Model, prompt and settings: two judges with the same version give the same verdicts."""
        marker = f":after {self._answer_after}" if self._answer_after else ""
        windows = f":{self._windows}" if self._view == "full" and self._windows != WindowLimits() else ""
        prompt = f"{self._prompt.name}@{self._prompt.digest}"
        return f"{self._transport.model}/{prompt}/{self._view}:{self._settings}{windows}{marker}"

    def judge(self, cases: Sequence[JudgeCase]) -> list[tuple[Judgement, ...]]:
        """One judgement per step of every case."""
        return self.judge_counted(cases)[0]

    def judge_counted(self, cases: Sequence[JudgeCase]) -> tuple[list[tuple[Judgement, ...]], dict[str, float]]:
        """As :meth:`judge`, with the account of this very call (additive: a receipt's metrics).

        The account holds ``calls``, ``calls.stored`` (answered by the cache), ``calls.repair`` (second tries of an
        unreadable answer), ``calls.repaired`` (those that helped), ``retries``, ``prompt_tokens``,
        ``prompt_tokens.cached``, ``answer_tokens`` and ``cost`` of what was not stored, and ``calls.uncounted``, whose
        tokens nobody counted. Calls of work that failed as a whole are in the account of the next that does not, by the
        same object; if its process ends before, they are lost to the account (a lower bound, then).
        """
        account: dict[str, float] = defaultdict(float)
        rows: list[list[Judgement]] = [[Judgement(VerdictStatus.REFUSED)] * len(case.steps) for case in cases]
        try:
            for wave in self._waves(cases):
                for question, judged in zip(wave, self._judged(wave, cases, rows, account), strict=True):
                    rows[question.case][question.first : question.last + 1] = judged
            self._check_answered(rows)
        except EngineError:
            with self._lock:  # these calls were made and paid for, though nobody will see their answers
                _add(self._lost_account, account)
            raise
        with self._lock:
            _add(account, self._lost_account)
            self._lost_account.clear()
        return [tuple(row) for row in rows], dict(account)

    def _check_answered(self, rows: Sequence[Sequence[Judgement]]) -> None:
        """Raises :class:`EngineError` where this work is to be done again rather than recorded."""

    def health(self) -> dict[str, float]:
        """The transport's."""
        return self._transport.health()

    def close(self) -> None:
        """Close the transport."""
        self._transport.close()

    # --- asking ------------------------------------------------------------------------------------------------------

    def _waves(self, cases: Sequence[JudgeCase]) -> Iterator[list[_Question]]:
        """The questions that can go out together; a wave needs the verdicts of those before it."""
        questions = [[_Question(index, *window) for window in self._cut(case)] for index, case in enumerate(cases)]
        if self._view == "full" and self._prompt.earlier:
            for wave in zip_longest(*questions):
                yield [question for question in wave if question is not None]
        else:
            yield [question for of_case in questions for question in of_case]

    def _cut(self, case: JudgeCase) -> list[tuple[int, int]]:
        if self._view == "causal":
            return cut_windows(len(case.steps), max_steps=1)
        limits = self._windows
        sizes = [self._transport.count_tokens(step) for step in case.steps] if limits.tokens is not None else []
        return cut_windows(len(case.steps), max_steps=limits.steps, sizes=sizes, max_tokens=limits.tokens)

    def _ask(self, question: _Question, case: JudgeCase, row: Sequence[Judgement]) -> Ask:
        earlier = {}
        if self._view == "full":
            earlier = {step: said.error_type for step, said in enumerate(row[: question.first]) if said.label == 0}
        messages = render_judge_messages(
            self._prompt,
            case.problem,
            case.steps,
            question.first,
            question.last,
            case.gold,
            earlier={step: error for step, error in earlier.items() if error is not None},
            shown=len(case.steps) if self._view == "full" and self._windows.looks_ahead else None,
        )
        is_json = self._prompt.answer == "json" and self._is_bound
        return Ask(tuple(messages), verdict_schema(question.last - question.first + 1) if is_json else None)

    def _judged(
        self,
        wave: Sequence[_Question],
        cases: Sequence[JudgeCase],
        rows: Sequence[Sequence[Judgement]],
        account: dict[str, float],
    ) -> list[list[Judgement]]:
        """The judgements of every question; what cannot be read is asked once more, with what was wrong."""
        asks = [self._ask(question, cases[question.case], rows[question.case]) for question in wave]
        replies = self._answers(asks, account)
        judged = [self._read(reply, question) for reply, question in zip(replies, wave, strict=True)]
        unread = [i for i, said in enumerate(judged) if said[0].status is VerdictStatus.UNPARSABLE]
        if not self._prompt.repair or not unread:
            return judged
        again = [self._repair(asks[i], replies[i].text, wave[i]) for i in unread]
        for i, reply in zip(unread, self._answers(again, account), strict=True):
            account["calls.repair"] += 1
            second = self._read(reply, wave[i])
            # A second try that got no answer says nothing new: the first answer, unreadable, is what there is.
            if second[0].status is VerdictStatus.JUDGED:
                account["calls.repaired"] += 1
                judged[i] = second
        return judged

    def _repair(self, ask: Ask, text: str, question: _Question) -> Ask:
        messages = render_repair(self._prompt, ask.messages, self._tail(text) or "", question.first, question.last)
        return Ask(tuple(messages), ask.schema)

    def _answers(self, asks: Sequence[Ask], account: dict[str, float]) -> list[Reply]:
        replies: dict[int, Reply] = {}
        for index, reply in self._transport.answers(asks):
            replies[index] = reply
            _count(reply, account)
        return [replies[index] for index in range(len(asks))]

    # --- reading -----------------------------------------------------------------------------------------------------

    def _tail(self, text: str) -> str | None:
        """What follows the marker; ``None`` where it never came."""
        if self._answer_after is None:
            return text
        _, marker, tail = text.rpartition(self._answer_after)
        return tail if marker else None

    def _read(self, reply: Reply, question: _Question) -> list[Judgement]:
        """The judgements of one answer. Fails closed: an answer not exactly in the format says nothing of any step."""
        num_steps = question.last - question.first + 1
        if reply.failure is not None:
            return [Judgement(reply.failure, raw=reply.text)] * num_steps
        answer = self._tail(reply.text)
        parsed = None
        if answer is not None:
            parsed = parse_answer(self._prompt, answer, question.first, question.last, is_bound=self._is_bound)
        if parsed is None:
            return [Judgement(VerdictStatus.UNPARSABLE, raw=reply.text)] * num_steps
        return [
            Judgement(VerdictStatus.JUDGED, label=verdict.label, error_type=verdict.error_type, raw=reply.text)
            for verdict in parsed
        ]


def _add(account: dict[str, float], more: Mapping[str, float]) -> None:
    for key, value in more.items():
        account[key] = account.get(key, 0.0) + value


def _count(reply: Reply, account: dict[str, float]) -> None:
    account["calls"] += 1
    if reply.is_stored:
        account["calls.stored"] += 1
        return
    account["retries"] += reply.num_retries
    if reply.prompt_tokens is None or reply.answer_tokens is None:
        account["calls.uncounted"] += 1
        return
    account["prompt_tokens"] += reply.prompt_tokens
    account["prompt_tokens.cached"] += reply.cached_tokens
    account["answer_tokens"] += reply.answer_tokens
    if reply.cost is not None:
        account["cost"] += reply.cost


class LlmJudge(TransportJudge):
    """A judge on top of any generator in this process; greedy unless told otherwise.

    Args:
        generator: owned from here on: closing the judge closes it.
        model_version: digest of the judge's weights; names them in :attr:`version` and in the cache's keys.
        max_prompt_tokens: a longer prompt is not sent; its steps come back ``REFUSED``.
        temperature, top_p: of a judge that is meant to be sampled (reasoning models).
        cache: answers of earlier runs; ``None`` asks always.
        sample: which of several draws of the same request this judge is (a vote of one model with itself).
        is_bound: see :class:`TransportJudge`.
    """

    def __init__(
        self,
        generator: TextGenerator,
        name: str,
        prompt: JudgePrompt,
        view: View,
        *,
        model_version: str,
        max_tokens: int,
        max_prompt_tokens: int,
        answer_after: str | None = None,
        windows: WindowLimits = WindowLimits(),
        temperature: float = 0.0,
        top_p: float = 1.0,
        cache: VerdictCache | None = None,
        sample: int = 0,
        is_bound: bool = True,
    ) -> None:
        sampling = Sampling(max_tokens=max_tokens, temperature=temperature, top_p=top_p)
        transport: Transport = GeneratorTransport(generator, model_version, sampling, max_prompt_tokens)
        if cache is not None:
            transport = CachedTransport(transport, cache, sample=sample)
        drawn = f":t{temperature:g}p{top_p:g}s{sample}" if temperature > 0.0 or sample else ""
        free = "" if is_bound or prompt.answer != "json" else ":free"
        super().__init__(
            transport,
            name,
            prompt,
            view,
            settings=f"{max_tokens}:{max_prompt_tokens}{drawn}{free}",
            windows=windows,
            answer_after=answer_after,
            is_bound=is_bound,
        )
        self._generator = generator

    def sleep(self) -> bool:
        """See :class:`~bcpg_cluster.stages.job.Sleeper`."""
        return isinstance(self._generator, Sleeper) and self._generator.sleep()

    def wake_up(self) -> None:
        """See :class:`~bcpg_cluster.stages.job.Sleeper`."""
        if isinstance(self._generator, Sleeper):
            self._generator.wake_up()
