"""What judging asks of a judge: a case, and a verdict for each of its steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from bcpg_cluster.records import ErrorType, VerdictStatus


@dataclass(frozen=True, slots=True)
class JudgeCase:
    """A wrong response to be judged step by step. ``gold`` is ``None`` when the judge may not see it."""

    problem: str
    steps: tuple[str, ...]
    gold: str | None = None


@dataclass(frozen=True, slots=True)
class Judgement:
    """What a judge says of one step. ``JUDGED`` carries a ``label`` or a ``score`` in [0, 1]; other statuses neither."""

    status: VerdictStatus
    label: int | None = None
    score: float | None = None
    error_type: ErrorType | None = None
    raw: str = ""


class Judge(Protocol):
    """Anything that grades steps: an LLM judge, a process reward model, the truth of the embedded task."""

    @property
    def version(self) -> str:
        """Names model, prompt and settings: two judges with the same version give the same verdicts."""
        ...

    def judge(self, cases: Sequence[JudgeCase]) -> list[tuple[Judgement, ...]]:
        """One judgement per step of every case, in order; what could not be judged comes back as a status.

        Raises:
            EngineError: the engine itself failed; the cases may be tried again elsewhere.
        """
        ...

    def health(self) -> dict[str, float]:
        """Numbers for dashboards; see :class:`TextGenerator`."""
        ...

    def close(self) -> None:
        """Free everything."""
        ...
