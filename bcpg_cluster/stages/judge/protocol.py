"""What judging asks of a judge: a case, and a verdict for each of its steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from bcpg_cluster.records import ErrorType, VerdictStatus


@dataclass(frozen=True, slots=True)
class JudgeCase:
    """A wrong response to be judged step by step.

    Attributes:
        gold: the right answer; ``None`` when the judge may not see it.
        wanted: the steps whose verdicts can still change anything (``judge.cascade``); ``None`` is all. A judge may answer for
            the others too, or give them the status ``NOT_ASKED``.
    """

    problem: str
    steps: tuple[str, ...]
    gold: str | None = None
    wanted: frozenset[int] | None = None

    @property
    def is_wanted(self) -> bool:
        """Whether anything is to be asked."""
        return self.wanted is None or bool(self.wanted)

    def wants(self, step: int) -> bool:
        """Whether a step is asked about."""
        return self.wanted is None or step in self.wanted


@dataclass(frozen=True, slots=True)
class Judgement:
    """What a judge says of one step. ``JUDGED`` carries a ``label`` or a ``score`` in [0, 1]; other statuses neither."""

    status: VerdictStatus
    label: int | None = None
    score: float | None = None
    error_type: ErrorType | None = None
    raw: str = ""


@dataclass(frozen=True, slots=True)
class Judged:
    """What comes of one call of a judge.

    Attributes:
        judgements: one per step of every case, in the order asked.
        counts: what this very call took (calls, tokens, money), additive over calls; a receipt's ``judge.*`` metrics. Empty
            for judges that keep no account. :class:`~bcpg_cluster.stages.judge.llm.llm_judge.LlmJudge` names its own.
    """

    judgements: tuple[tuple[Judgement, ...], ...]
    counts: Mapping[str, float] = field(default_factory=dict)


@runtime_checkable
class SavingsCount(Protocol):
    """A judge that can say what not being asked saves."""

    def savings(self, cases: Sequence[JudgeCase]) -> Mapping[str, float]:
        """What calls about these whole cases would have taken, by the names of :attr:`Judged.counts`."""
        ...


class Judge(Protocol):
    """Anything that grades steps: an LLM judge, a process reward model, the truth of the embedded task."""

    @property
    def version(self) -> str:
        """Names model, prompt and settings: two judges with the same version give the same verdicts."""
        ...

    def judge(self, cases: Sequence[JudgeCase]) -> Judged:
        """Grade every step of every case; what could not be judged comes back as a status.

        Raises:
            EngineError: the engine itself failed; the cases may be tried again elsewhere.
        """
        ...

    def close(self) -> None:
        """Free everything."""
        ...
