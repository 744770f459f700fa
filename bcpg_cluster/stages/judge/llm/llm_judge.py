"""An LLM judge: a prompt, anything that answers it, and a strict reading of the answer."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from bcpg_cluster.cluster.liveness.progress import present_work
from bcpg_cluster.errors import EngineError
from bcpg_cluster.records import VerdictStatus
from bcpg_cluster.stages.job import Sleeper
from bcpg_cluster.stages.judge.llm.answer_schema import parse_answer, verdict_schema
from bcpg_cluster.stages.judge.llm.cache import VerdictCache
from bcpg_cluster.stages.judge.llm.families.families import FAMILIES, NOT_REACHED, check_fit
from bcpg_cluster.stages.judge.llm.families.family import Said, Shown
from bcpg_cluster.stages.judge.llm.judge_prompt import JudgePrompt, render_judge_messages, render_repair
from bcpg_cluster.stages.judge.llm.questions import Question, Turns, waves
from bcpg_cluster.stages.judge.llm.transport import Ask, Reply, Transport, after_marker, cached_answers, seeded
from bcpg_cluster.stages.judge.llm.verdict_odds import scores_of
from bcpg_cluster.stages.judge.llm.votes import Says, decided
from bcpg_cluster.stages.judge.llm.windows import WHOLE, Window, WindowLimits, cut_windows, unneeded_windows
from bcpg_cluster.stages.judge.protocol import JudgeCase, Judged, Judgement
from bcpg_cluster.stages.judge.unanswered import mostly_unanswered

View = Literal["causal", "full"]


@dataclass(frozen=True, slots=True)
class JudgeOptions:
    """What an LLM judge is asked, and how its answers are read.

    Attributes:
        view: ``causal`` asks about one step at a time and hides what comes after it (Eq. 3: phi(x, STEP_{:k})); all
            calls go out at once. ``full`` asks about all steps of a window in one call; where the prompt has a place
            for it, a window is told what earlier windows found wrong, and so waits for them. The prompt starts with its
            static part and the steps grow at its end, so the calls of one response share a cached prefix.
        windows: of the ``full`` view; by default a response is one window.
        answer_after: for judges that think aloud: only what follows the last such marker is the answer (``</think>``).
        sample: which of several draws of the same request this judge is (a vote of one model with itself).
        votes: draws of each request that decide together; vote v of k is draw ``sample * k + v``.
        says: what each vote says of a step; ``probability`` needs a transport that gives log-probs.
        max_unanswered: largest share of the steps of one :meth:`LlmJudge.judge` that may stay without an answer; above it the
            whole call is an error, to be tried again. ``None`` records whatever came.
        run_seed: seeds sampled answers, with the content of the request; ``None`` leaves them to chance.
    """

    prompt: JudgePrompt
    view: View = "full"
    windows: WindowLimits = WHOLE
    answer_after: str | None = None
    sample: int = 0
    max_unanswered: float | None = None
    run_seed: int | None = None
    votes: int = 1
    says: Says = "label"


def most_calls(options: JudgeOptions, num_steps: int) -> int:
    """The most requests that :meth:`LlmJudge.judge` makes about one response of at most so many steps.

    With ``windows.tokens`` every step may be a window of its own, since it is the judge's tokenizer that counts. An answer
    that cannot be read is asked for once more where the prompt says how. A transport's own retries are not requests here.
    """
    windows = num_steps
    if options.view == "full" and options.windows.tokens is None:
        windows = -(-num_steps // (options.windows.steps or max(num_steps, 1)))
    return windows * options.votes * (2 if options.prompt.repair else 1)


class LlmJudge:
    """A :class:`~bcpg_cluster.stages.judge.protocol.Judge` that asks a language model over a
    :class:`~bcpg_cluster.stages.judge.llm.transport.Transport`.

    Its counts are ``calls``, ``calls.stored`` (answered by the cache), ``calls.unkept`` (which the cache could not take),
    ``calls.repair`` (second tries of an unreadable answer), ``calls.repaired`` (those that helped), ``retries``,
    ``prompt_tokens``, ``prompt_tokens.cached`` (and ``prompt_tokens.shareable``, what an engine's prefix cache can serve of one
    call's requests), ``answer_tokens`` and ``cost`` of what was not stored, and ``calls.uncounted``,
    whose tokens were not counted; of a cascade also ``calls.not_made`` and, by estimate, ``prompt_tokens.not_sent``.
    Calls of work that failed as a whole are in the counts of the next that does not, by the same object; if its process ends
    before, they are lost (the counts are a lower bound, then).

    Args:
        transport: owned from here on: closing the judge closes it.
        cache: answers of earlier runs; ``None`` asks always.

    Raises:
        ConfigError: options that the prompt's family was not trained for.
    """

    def __init__(
        self, name: str, transport: Transport, options: JudgeOptions, cache: VerdictCache | None = None
    ) -> None:
        self.name = name
        self._transport = transport
        self._options = options
        self._prompt = options.prompt
        self._family = FAMILIES.get(options.prompt.answer)
        if self._family is not None:
            check_fit(
                f"judges.{name}",
                self._family,
                view=options.view,
                shows_gold=False,
                is_windowed=options.windows != WHOLE,
                answer_after=options.answer_after,
            )
        self._cache = cache
        self._lost_account: dict[str, float] = defaultdict(float)
        self._lock = threading.Lock()

    @property
    def version(self) -> str:
        """Model, prompt and settings: two judges with the same version give the same verdicts."""
        options, prompt = self._options, self._prompt
        settings = self._transport.settings(sample=options.sample, is_json=prompt.answer == "json")
        windows = f":{options.windows}" if options.view == "full" and options.windows != WHOLE else ""
        marker = f":after {options.answer_after}" if options.answer_after else ""
        asked = f"{prompt.name}@{prompt.digest}/{options.view}"
        scores = (f":votes {options.votes}" if options.votes > 1 else "") + (
            f":says {options.says}" if options.says != "label" else ""
        )
        return f"{self._transport.model}/{asked}:{settings}{windows}{marker}{scores}"

    @property
    def transport(self) -> Transport:
        """What it asks over; a segmenter that asks its model shares it, limits and all."""
        return self._transport

    def judge(self, cases: Sequence[JudgeCase]) -> Judged:
        """Grade every step of every case.

        Raises:
            EngineError: the transport failed, or left more than ``max_unanswered`` of the steps without an answer.
        """
        account: dict[str, float] = defaultdict(float)
        votes = self._options.votes
        asked = [case for case in cases for _ in range(votes)]
        drawn: list[list[Judgement]] = [[Judgement(VerdictStatus.NOT_ASKED)] * len(case.steps) for case in asked]
        try:
            for wave in waves(asked, drawn, self._cut, self._turns):
                for question, judged in zip(wave, self._judged(wave, asked, drawn, account), strict=True):
                    drawn[question.case][question.first : question.last + 1] = judged
            rows = [
                [decided(of_step, self._options.says) for of_step in zip(*drawn[start : start + votes], strict=True)]
                for start in range(0, len(drawn), votes)
            ]
            self._check_answered(rows)
        except EngineError:
            with self._lock:  # these calls were made and paid for, though their answers are not used
                _add(self._lost_account, account)
            raise
        with self._lock:
            _add(account, self._lost_account)
            self._lost_account.clear()
        _add(account, self._savings(cases))
        return Judged(tuple(map(tuple, rows)), dict(account))

    def savings(self, cases: Sequence[JudgeCase]) -> Mapping[str, float]:
        """See :class:`~bcpg_cluster.stages.judge.protocol.SavingsCount`."""
        return self._savings([replace(case, wanted=frozenset()) for case in cases])

    def _savings(self, cases: Sequence[JudgeCase]) -> dict[str, float]:
        """The calls that are not made since nothing they ask about is wanted, and about how many prompt tokens those have."""
        spared = [
            (case, window)
            for case in cases
            if case.wanted is not None
            for window in unneeded_windows(self._cut(case), case.wanted, in_turn=self._turns != "at once")
        ]
        if not spared:
            return {}
        tokens = 0
        for case, (first, last) in spared:
            unasked = [Judgement(VerdictStatus.NOT_ASKED)] * first  # a lower bound: no answers between the steps
            messages = self._ask(Question(0, first, last), case, unasked).messages
            tokens += self._transport.count_tokens("\n".join(message["content"] for message in messages))
        votes = self._options.votes
        return {"calls.not_made": float(votes * len(spared)), "prompt_tokens.not_sent": float(votes * tokens)}

    def sleep(self) -> bool:
        """See :class:`~bcpg_cluster.stages.job.Sleeper`; false for a transport that cannot sleep."""
        return isinstance(self._transport, Sleeper) and self._transport.sleep()

    def wake_up(self) -> None:
        """See :class:`~bcpg_cluster.stages.job.Sleeper`."""
        if isinstance(self._transport, Sleeper):
            self._transport.wake_up()

    def close(self) -> None:
        """Close the transport."""
        self._transport.close()

    def _check_answered(self, rows: Sequence[Sequence[Judgement]]) -> None:
        if self._options.max_unanswered is None:
            return
        trouble = mostly_unanswered(rows, self._options.max_unanswered)
        if trouble is not None:
            raise EngineError(f"judge {self.name!r}: {self._transport.model} {trouble}")

    # --- asking ------------------------------------------------------------------------------------------------------

    @property
    def _turns(self) -> Turns:
        if self._family is not None and self._family.is_conversation:
            return "conversation"
        return "in turn" if self._options.view == "full" and self._prompt.earlier else "at once"

    def _cut(self, case: JudgeCase) -> list[Window]:
        if self._options.view == "causal":
            return cut_windows(len(case.steps), max_steps=1)
        limits = self._options.windows
        sizes = [self._transport.count_tokens(step) for step in case.steps] if limits.tokens is not None else []
        return cut_windows(len(case.steps), max_steps=limits.steps, sizes=sizes, max_tokens=limits.tokens)

    def _ask(self, question: Question, case: JudgeCase, row: Sequence[Judgement]) -> Ask:
        sample = self._options.sample * self._options.votes + question.case % self._options.votes
        if self._family is not None:
            shown = Shown(
                case.problem, case.steps[: question.last + 1], tuple(said.raw for said in row[: question.first])
            )
            return self._seeded(Ask(tuple(self._family.messages(self._prompt, shown)), sample=sample))
        earlier = {}
        if self._options.view == "full":
            earlier = {step: said.error_type for step, said in enumerate(row[: question.first]) if said.label == 0}
        messages = render_judge_messages(
            self._prompt,
            case.problem,
            case.steps,
            question.first,
            question.last,
            case.gold,
            earlier={step: error for step, error in earlier.items() if error is not None},
            shown=len(case.steps) if self._options.view == "full" and self._options.windows.looks_ahead else None,
        )
        num_steps = question.last - question.first + 1
        schema = verdict_schema(num_steps, rule=self._prompt.rule) if self._is_bound else None
        return self._seeded(Ask(tuple(messages), schema, sample=sample))

    def _seeded(self, ask: Ask) -> Ask:
        return seeded(ask, self._transport, self._options.run_seed)

    def _judged(
        self,
        wave: Sequence[Question],
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

    def _repair(self, ask: Ask, text: str, question: Question) -> Ask:
        answer = after_marker(text, self._options.answer_after) or ""
        messages = render_repair(self._prompt, ask.messages, answer, question.first, question.last)
        return self._seeded(replace(ask, messages=tuple(messages)))

    def _answers(self, asks: Sequence[Ask], account: dict[str, float]) -> list[Reply]:
        replies: dict[int, Reply] = {}
        for index, reply in cached_answers(self._transport, self._cache, asks):
            present_work().mark()
            replies[index] = reply
            _count(reply, account)
        return [replies[index] for index in range(len(asks))]

    @property
    def _is_bound(self) -> bool:
        """Whether the transport gets a schema of the answer; there is none for lines."""
        return self._prompt.answer == "json" and self._transport.is_bound

    # --- reading -----------------------------------------------------------------------------------------------------

    def _read(self, reply: Reply, question: Question) -> list[Judgement]:
        """The judgements of one answer, with its label and, where it is wanted and known, P(right).

        Fails closed: an answer not exactly in the format says nothing of any step.
        """
        num_steps = question.last - question.first + 1
        if reply.failure is not None:
            return [Judgement(reply.failure, raw=reply.text)] * num_steps
        if self._family is not None:
            return _of_family(self._family.read(reply.text, num_steps), reply.text, num_steps)
        answer = after_marker(reply.text, self._options.answer_after)
        parsed = None
        if answer is not None:
            is_bound = self._is_bound and self._transport.enforces
            parsed = parse_answer(self._prompt, answer, question.first, question.last, is_bound=is_bound)
        if parsed is None:
            return [Judgement(VerdictStatus.UNPARSABLE, raw=reply.text)] * num_steps
        scores: list[float | None] = [None] * num_steps
        if self._options.says == "probability":
            scores = scores_of(reply.verdicts or (), [verdict.label for verdict in parsed], question.first)
        return [
            Judgement(VerdictStatus.JUDGED, verdict.label, score, verdict.error_type, reply.text)
            for verdict, score in zip(parsed, scores, strict=True)
        ]


def _of_family(said: Sequence[Said] | None, text: str, num_steps: int) -> list[Judgement]:
    """A trained judge's answer as judgements. Each step has its own part of the thought; one not come to is ``REFUSED``."""
    if said is None:
        return [Judgement(VerdictStatus.UNPARSABLE, raw=text)] * num_steps
    return [
        Judgement(VerdictStatus.REFUSED, raw=NOT_REACHED)
        if one.label is None
        else Judgement(VerdictStatus.JUDGED, label=one.label, raw=one.thought)
        for one in said
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
    if reply.is_unkept:
        account["calls.unkept"] += 1
    if reply.prompt_tokens is None or reply.answer_tokens is None:
        account["calls.uncounted"] += 1
        return
    account["prompt_tokens"] += reply.prompt_tokens
    account["prompt_tokens.cached"] += reply.cached_tokens
    if reply.shareable_tokens:
        account["prompt_tokens.shareable"] += reply.shareable_tokens
    account["answer_tokens"] += reply.answer_tokens
    if reply.cost is not None:
        account["cost"] += reply.cost
