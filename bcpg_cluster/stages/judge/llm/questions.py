"""The calls that an LLM judge makes about responses: in which order, and which of them wait for others."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Literal

from bcpg_cluster.records import VerdictStatus
from bcpg_cluster.stages.judge.llm.windows import Window, needed_windows
from bcpg_cluster.stages.judge.protocol import JudgeCase, Judgement

Turns = Literal["at once", "in turn", "conversation"]
"""All windows of a response go out ``at once``; ``in turn``: each is told what those before it found; ``conversation``: each has
the answers before it in its prompt."""


@dataclass(frozen=True, slots=True)
class Question:
    """One call of the judge: steps ``first..last`` of a case; every vote has its own copy of the cases."""

    case: int
    first: int
    last: int


def waves(
    cases: Sequence[JudgeCase],
    rows: list[list[Judgement]],
    cut: Callable[[JudgeCase], Sequence[Window]],
    turns: Turns,
) -> Iterator[list[Question]]:
    """The questions that can go out together; a wave needs the verdicts of those before it.

    They are in the order in which an engine's prefix cache serves most: responses to one problem together, the steps of a response
    one after another, since each call's prompt begins with the one before it.

    Args:
        rows: what is known of every step of every case; filled by the caller between waves. A conversation that got no answer
            ends, and its further steps take that answer's status here.
        cut: the windows of a case.
    """
    questions = [
        [Question(index, *window) for window in needed_windows(cut(case), case.wanted, in_turn=turns != "at once")]
        for index, case in _problem_by_problem(cases)
    ]
    if turns == "at once":
        yield [question for of_case in questions for question in of_case]
        return
    for wave in zip_longest(*questions):
        there = [question for question in wave if question is not None]
        yield [question for question in there if _is_open(question, rows)] if turns == "conversation" else there


def _problem_by_problem(cases: Sequence[JudgeCase]) -> list[tuple[int, JudgeCase]]:
    """The cases with their places; those of one problem together, otherwise in the order given."""
    first: dict[str, int] = {}
    for index, case in enumerate(cases):
        first.setdefault(case.problem, index)
    return sorted(enumerate(cases), key=lambda placed: first[placed[1].problem])


def _is_open(question: Question, rows: list[list[Judgement]]) -> bool:
    """Whether a conversation has come to this step. Where the step before got no answer, this one gets none either."""
    row = rows[question.case]
    before = row[question.first - 1] if question.first else None
    if before is None or before.status in (VerdictStatus.JUDGED, VerdictStatus.UNPARSABLE):
        return True
    row[question.first] = before
    return False
