"""The embedded task: a chain of operations modulo 100, with the truth of every step.

A question names a start value and some operations, applied left to right, always modulo 100::

    17 +25 *3 -8

A response works through the chain, one line an operation, may notice a mistake with ``wait`` and do the line again,
and closes with the answer::

    17+25=43
    wait
    17+25=42
    42*3=26
    26-8=18
    answer 18

Because the right line for every place in the chain is known, every step of every response has a true label. That is what
lets the embedded default measure its judges. Imports no packages.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from bcpg_cluster.assets.step_truth import StepTruth, truth_of_lines
from bcpg_cluster.records import StepRule

MODULUS = 100
REFLECTION = "wait"
ANSWER = "answer "


@dataclass(frozen=True, slots=True)
class Operation:
    """One operation of a chain: ``symbol`` is ``+``, ``-`` or ``*``; ``operand`` is a positive whole number."""

    symbol: str
    operand: int

    def apply(self, value: int) -> int:
        """The value after this operation, in ``0..MODULUS-1``."""
        if self.symbol == "+":
            return (value + self.operand) % MODULUS
        if self.symbol == "-":
            return (value - self.operand) % MODULUS
        return (value * self.operand) % MODULUS


@dataclass(frozen=True, slots=True)
class Chain:
    """A question of the task: a start value in ``0..99`` and its operations in order."""

    start: int
    operations: tuple[Operation, ...]

    @property
    def question(self) -> str:
        """The question as the prompt shows it, e.g. ``17 +25 *3 -8``."""
        return " ".join([str(self.start), *(f"{op.symbol}{op.operand}" for op in self.operations)])

    @property
    def values(self) -> tuple[int, ...]:
        """The running values, the start included: one more than there are operations."""
        values = [self.start]
        for operation in self.operations:
            values.append(operation.apply(values[-1]))
        return tuple(values)

    @property
    def answer(self) -> str:
        """The final value as text."""
        return str(self.values[-1])

    @property
    def lines(self) -> tuple[str, ...]:
        """The right line for each place in the chain, e.g. ``17+25=42``."""
        values = self.values
        return tuple(f"{values[i]}{op.symbol}{op.operand}={values[i + 1]}" for i, op in enumerate(self.operations))

    @property
    def solution(self) -> str:
        """A right response without any mistake."""
        return "\n".join([*self.lines, f"{ANSWER}{self.answer}"])


def parse_question(question: str) -> Chain:
    """Read a question back into its chain.

    Raises:
        ValueError: the text is not a start value followed by operations.
    """
    words = question.split()
    if len(words) < 2 or not words[0].isdigit():
        raise ValueError(f"not a chain question: {question!r} (expected e.g. '17 +25 *3')")
    operations = []
    for word in words[1:]:
        if word[0] not in "+-*" or not word[1:].isdigit():
            raise ValueError(f"not an operation: {word!r} in {question!r}")
        operations.append(Operation(word[0], int(word[1:])))
    return Chain(int(words[0]), tuple(operations))


def draw_chain(rng: random.Random, min_operations: int, max_operations: int) -> Chain:
    """A random chain: ``+``/``-`` with 10..99, ``*`` with 2..9, each kind of operation equally likely."""
    operations = []
    for _ in range(rng.randint(min_operations, max_operations)):
        symbol = rng.choice("+-*")
        operations.append(Operation(symbol, rng.randint(2, 9) if symbol == "*" else rng.randint(10, 99)))
    return Chain(rng.randint(0, MODULUS - 1), tuple(operations))


def step_truths(question: str, steps: Sequence[str], rule: StepRule = "propagated") -> list[StepTruth]:
    """The truth of every step of a response to ``question``.

    A step is one line, or the word ``wait`` with the line that follows it. ``wait`` goes back to the place of the line
    before it. Under the rule ``propagated`` a line is right when it is the chain's line for its place: a corrected line is
    right again (Error Termination), a line that builds on a wrong value is wrong however well it is worked out (Error
    Propagation), and the answer is right when it is the chain's final value. Under ``local`` a line that is worked out rightly
    from the value written before it is right too, an answer that states the value written last also, and a step of several
    lines is right when all are that ``wait`` did not take back.

    Raises:
        ValueError: ``question`` is not one of this task.
    """
    walk = _Walk(parse_question(question), rule)
    return [walk.truth_of(step) for step in steps]


class _Walk:
    """How far a response is in its chain, and what it wrote on the way."""

    def __init__(self, chain: Chain, rule: StepRule) -> None:
        self._chain = chain
        self._lines, self._values = chain.lines, chain.values
        self._is_local = rule == "local"
        self._written = [chain.start]  # by place in the chain, the value the response itself has reached there

    def truth_of(self, step: str) -> StepTruth:
        """The truth of the response's next step."""
        found: list[StepTruth] = []
        for line in (part.strip() for part in step.split("\n")):
            if line == REFLECTION:
                self._go_back()
                if self._is_local:
                    found = found[:-1]
            elif line.startswith(ANSWER.strip()):
                found.append(self._answer(line[len(ANSWER.strip()) :].strip()))
            elif line:
                found.append(self._line(line))
        return truth_of_lines(found, is_local=self._is_local)

    def _go_back(self) -> None:
        if len(self._written) > 1:
            self._written.pop()
        if not self._is_local:  # a correction starts again from the question's own value
            self._written[-1] = self._values[min(len(self._written), len(self._values)) - 1]

    def _line(self, line: str) -> StepTruth:
        place = len(self._written) - 1
        if place < len(self._lines) and line == self._lines[place]:
            truth, after = StepTruth(True, "none"), self._values[place + 1]
        else:
            truth, after = _classify_wrong_line(line, self._chain, place, self._written[-1])
        self._written.append(after)
        return StepTruth(True, "none") if self._is_local and truth.error_type == "propagated" else truth

    def _answer(self, said: str) -> StepTruth:
        is_done = len(self._written) > len(self._lines)
        if said == self._chain.answer or (self._is_local and is_done and said == str(self._written[-1])):
            return StepTruth(True, "none")
        if not self._is_local:
            return StepTruth(False, "propagated")
        return StepTruth(False, "inconsistent_with_earlier" if said else "no_content")


def _classify_wrong_line(line: str, chain: Chain, place: int, written: int) -> tuple[StepTruth, int]:
    """The kind of error of a line that is not the right one, and the value the response holds after it."""
    left, equals, result = line.partition("=")
    if not equals or not result.isdigit() or not any(symbol in left for symbol in "+-*"):
        return StepTruth(False, "no_content"), written
    after = int(result)
    if place >= len(chain.operations):
        return StepTruth(False, "inconsistent_with_earlier"), after
    operation = chain.operations[place]
    tail = f"{operation.symbol}{operation.operand}"
    if left == f"{chain.values[place]}{tail}":
        return StepTruth(False, "calculation"), after
    if left == f"{written}{tail}":
        kind = "propagated" if after == operation.apply(written) else "calculation"
        return StepTruth(False, kind), after
    return StepTruth(False, "inconsistent_with_earlier"), after
