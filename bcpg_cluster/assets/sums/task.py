"""The embedded task: a sum modulo 100 whose terms may be taken in any order, with checks and corrections.

A question names a start value and signed terms::

    17 +25 -8 +46

A response takes the terms one by one, in any order, one line a term. It may check a line by its inverse; where the check
does not come back to where the line began, ``wait`` does the line once more. It closes with the answer::

    17+46=63
    check 63-46=17
    63-8=45
    check 45+8=53
    wait
    63-8=55
    55+25=80
    answer 80

Values always have two digits, amounts one or two. Because what each line should be is known, every step of every response
has a true label. That is what lets the embedded default measure its judges. Imports no packages.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from bcpg_cluster.assets.step_truth import StepTruth, truth_of_lines
from bcpg_cluster.records import StepRule

MODULUS = 100
CHECK = "check "
REFLECTION = "wait"
ANSWER = "answer "

_WORD = re.compile(r"[+-][1-9]\d?")
_LINE = re.compile(r"(\d\d)([+-])([1-9]\d?)=(\d\d)")


@dataclass(frozen=True, slots=True)
class Term:
    """One signed term: ``sign`` is ``+`` or ``-``; ``amount`` is in ``1..99``."""

    sign: str
    amount: int

    def apply(self, value: int) -> int:
        """The value after this term, in ``0..MODULUS-1``."""
        return (value + self.amount if self.sign == "+" else value - self.amount) % MODULUS

    @property
    def inverse(self) -> Term:
        """The term that takes this one back: what a check applies."""
        return Term("-" if self.sign == "+" else "+", self.amount)

    def line(self, value: int, result: int) -> str:
        """The line that applies this term to ``value``, e.g. ``17+25=42``."""
        return f"{value:02d}{self.sign}{self.amount}={result:02d}"


@dataclass(frozen=True, slots=True)
class Sum:
    """A question of the task: a start value in ``0..99`` and its terms, whose amounts all differ."""

    start: int
    terms: tuple[Term, ...]

    @property
    def question(self) -> str:
        """The question as the prompt shows it, e.g. ``17 +25 -8 +46``."""
        return " ".join([f"{self.start:02d}", *(f"{term.sign}{term.amount}" for term in self.terms)])

    @property
    def answer(self) -> str:
        """The sum, as two digits."""
        value = self.start
        for term in self.terms:
            value = term.apply(value)
        return f"{value:02d}"


def parse_question(question: str) -> Sum:
    """Read a question back.

    Raises:
        ValueError: the text is not a two-digit start value followed by signed terms.
    """
    start, *words = question.split() or [""]
    if not words or not (len(start) == 2 and start.isdigit()) or not all(map(_WORD.fullmatch, words)):
        raise ValueError(f"not a sum: {question!r} (expected e.g. '17 +25 -8')")
    return Sum(int(start), tuple(Term(word[0], int(word[1:])) for word in words))


def draw_sum(rng: random.Random, min_terms: int, max_terms: int, long_share: float = 0.3) -> Sum:
    """A random question: both signs are equally likely, ``long_share`` of the amounts have two digits, and all differ."""
    amounts: list[int] = []
    num_terms = rng.randint(min_terms, max_terms)
    while len(amounts) < num_terms:
        amount = rng.randint(10, MODULUS - 1) if rng.random() < long_share else rng.randint(2, 9)
        if amount not in amounts:
            amounts.append(amount)
    return Sum(rng.randrange(MODULUS), tuple(Term(rng.choice("+-"), amount) for amount in amounts))


@dataclass(frozen=True, slots=True)
class _State:
    """Where a response is: the value it holds, the true value there (``None`` once it left the task), the terms left."""

    written: int
    true: int | None
    left: tuple[Term, ...]


@dataclass(frozen=True, slots=True)
class _Taken:
    """A line that took a term: the state before it, the term, and whether the line began at the true value."""

    before: _State
    term: Term
    result: int


def step_truths(question: str, steps: Sequence[str], rule: StepRule = "propagated") -> list[StepTruth]:
    """The truth of every step of a response to ``question``.

    A step is one line, or ``wait`` with the line that follows it. ``wait`` goes back to before the line that it doubts; where
    that line was right and no check of it failed, the step brings the solution no further and is wrong.
    Under the rule ``propagated`` a line is right when it takes a term that is left from the true value to the true result,
    a check when it takes back a line that began at the true value and is worked out rightly (also where it shows that that
    line is wrong), and the answer when it is the sum. Under ``local`` what is worked out rightly from the value written
    before it is right too, an answer that states the value written last also, once no term is left, and a step of several
    lines is right when all are that ``wait`` did not take back.

    Raises:
        ValueError: ``question`` is not one of this task.
    """
    walk = _Walk(parse_question(question), rule)
    return [walk.truth_of(step) for step in steps]


class _Walk:
    """Where a response is in its sum, and what it wrote on the way."""

    def __init__(self, task: Sum, rule: StepRule) -> None:
        self._answer = task.answer
        self._is_local = rule == "local"
        self._state = _State(task.start, task.start, task.terms)
        self._last: _Taken | None = None
        self._has_reason = False  # to doubt the last line

    def truth_of(self, step: str) -> StepTruth:
        """The truth of the response's next step."""
        found: list[StepTruth] = []
        is_idle = False
        for line in (part.strip() for part in step.split("\n")):
            if line == REFLECTION:
                is_idle = is_idle or not self._has_reason
                self._state = self._last.before if self._last else self._state
                found = found[:-1] if self._is_local else found
            elif line:
                truth = self._line(line)
                is_carried = self._is_local and truth.error_type == "propagated"
                found.append(StepTruth(True, "none") if is_carried else truth)
        if is_idle and found and found[-1].is_correct:
            return StepTruth(False, "no_content")
        return truth_of_lines(found, is_local=self._is_local)

    def _line(self, line: str) -> StepTruth:
        if line.startswith(ANSWER.strip()):
            return self._said(line.removeprefix(ANSWER.strip()).strip())
        if line.startswith(CHECK):
            self._has_reason |= self._last is not None and not line.endswith(f"={self._last.before.written:02d}")
            return _check_truth(line.removeprefix(CHECK), self._last)
        truth, self._state, self._last = _line_truth(line, self._state, self._last)
        self._has_reason = truth.error_type not in ("none", "propagated")
        return truth

    def _said(self, answer: str) -> StepTruth:
        if answer == self._answer:
            return StepTruth(True, "none")
        if not self._is_local or (not self._state.left and answer == f"{self._state.written:02d}"):
            return StepTruth(False, "propagated")
        return StepTruth(False, "inconsistent_with_earlier" if answer else "no_content")


def _check_truth(line: str, last: _Taken | None) -> StepTruth:
    """The truth of a check of the line before it."""
    match = _LINE.fullmatch(line)
    if match is None:
        return StepTruth(False, "no_content")
    value, term, result = int(match[1]), Term(match[2], int(match[3])), int(match[4])
    if last is None or term != last.term.inverse or value != last.result:
        return StepTruth(False, "inconsistent_with_earlier")
    if result != term.apply(value):
        return StepTruth(False, "calculation")
    is_right = last.before.written == last.before.true
    return StepTruth(is_right, "none" if is_right else "propagated")


def _line_truth(line: str, state: _State, last: _Taken | None) -> tuple[StepTruth, _State, _Taken | None]:
    """The truth of a line that takes a term, the state after it, and what a check of it would take back."""
    match = _LINE.fullmatch(line)
    if match is None:
        return StepTruth(False, "no_content"), replace(state, true=None), last
    value, term, result = int(match[1]), Term(match[2], int(match[3])), int(match[4])
    taken = _Taken(state, term, result)
    if value != state.written or term not in state.left:
        left = tuple(other for other in state.left if other != term)
        return StepTruth(False, "inconsistent_with_earlier"), _State(result, None, left), taken
    left = tuple(other for other in state.left if other != term)
    after = _State(result, None if state.true is None else term.apply(state.true), left)
    if result != term.apply(value):
        return StepTruth(False, "calculation"), after, taken
    is_right = value == state.true
    return StepTruth(is_right, "none" if is_right else "propagated"), after, taken
