"""An LLM judge: a prompt, any text generator, and a strict reading of its answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from bcpg_cluster.engines.protocols import GenerateRequest, JudgeCase, Judgement, Sampling, TextGenerator
from bcpg_cluster.method.verdict import JudgePrompt, parse_verdicts, render_judge_messages
from bcpg_cluster.records import StopReason, VerdictStatus

View = Literal["causal", "full"]


@dataclass(frozen=True, slots=True)
class _Question:
    """One call of the judge: steps ``first..last`` of a case."""

    case: int
    first: int
    last: int


class LlmJudge:
    """A :class:`~bcpg_cluster.engines.protocols.Judge` on top of any generator, greedy.

    Args:
        generator: owned from here on: closing the judge closes it.
        view: ``causal`` asks about one step at a time and hides what comes after it (Eq. 3: phi(x, STEP_{:k}));
            ``full`` asks about all steps in one call that shows the whole solution. The prompt starts with its static
            part and the steps grow at its end, so the causal calls of one response share a cached prefix.
        model_version: names the judge's weights in :attr:`version`.
        max_prompt_tokens: a longer prompt is not sent; its steps come back ``REFUSED``.
        answer_after: for judges that think aloud: only what follows the last such marker is the answer (``</think>``).
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
    ) -> None:
        self.name = name
        self._generator = generator
        self._prompt = prompt
        self._view = view
        self._model_version = model_version
        self._sampling = Sampling(max_tokens=max_tokens, temperature=0.0)
        self._max_prompt_tokens = max_prompt_tokens
        self._answer_after = answer_after

    @property
    def version(self) -> str:
        """Model, prompt and settings: two judges with the same version give the same verdicts."""
        settings = f"{self._view}:{self._sampling.max_tokens}:{self._max_prompt_tokens}"
        marker = f":after {self._answer_after}" if self._answer_after else ""
        return f"{self._model_version}/{self._prompt.name}@{self._prompt.digest}/{settings}{marker}"

    def judge(self, cases: Sequence[JudgeCase]) -> list[tuple[Judgement, ...]]:
        """One judgement per step of every case; all calls go to the generator at once."""
        asked: list[_Question] = []
        requests: list[GenerateRequest] = []
        verdicts: list[list[Judgement]] = [[Judgement(VerdictStatus.REFUSED)] * len(case.steps) for case in cases]
        for question in self._questions(cases):
            case = cases[question.case]
            messages = render_judge_messages(
                self._prompt, case.problem, case.steps, question.first, question.last, case.gold
            )
            token_ids = self._generator.render(messages)
            if len(token_ids) <= self._max_prompt_tokens:
                asked.append(question)
                requests.append(GenerateRequest(token_ids, self._sampling))
        for question, answer in zip(asked, self._generator.generate(requests), strict=True):
            steps = slice(question.first, question.last + 1)
            verdicts[question.case][steps] = self._read(answer.text, answer.stop_reason, question)
        return [tuple(row) for row in verdicts]

    def health(self) -> dict[str, float]:
        """The generator's."""
        return self._generator.health()

    def close(self) -> None:
        """Close the generator."""
        self._generator.close()

    def _questions(self, cases: Sequence[JudgeCase]) -> list[_Question]:
        if self._view == "causal":
            return [_Question(index, step, step) for index, case in enumerate(cases) for step in range(len(case.steps))]
        return [_Question(index, 0, len(case.steps) - 1) for index, case in enumerate(cases) if case.steps]

    def _read(self, text: str, stop_reason: StopReason, question: _Question) -> list[Judgement]:
        """The judgements of one answer. Fails closed: an answer not exactly in the format says nothing of any step."""
        num_steps = question.last - question.first + 1
        if stop_reason is StopReason.ABORTED:
            return [Judgement(VerdictStatus.ENGINE_LOST, raw=text)] * num_steps
        answer: str | None = text
        if self._answer_after is not None:
            _, marker, tail = text.rpartition(self._answer_after)
            answer = tail if marker else None
        parsed = parse_verdicts(answer, question.first, question.last) if answer is not None else None
        if parsed is None:
            return [Judgement(VerdictStatus.UNPARSABLE, raw=text)] * num_steps
        return [
            Judgement(VerdictStatus.JUDGED, label=verdict.label, error_type=verdict.error_type, raw=text)
            for verdict in parsed
        ]
