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
lets the embedded default measure its judges. Standard library only.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

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


@dataclass(frozen=True, slots=True)
class StepTruth:
    """What a step really is.

    Attributes:
        is_correct: the step's last line is the right line for its place in the chain.
        error_type: ``none``; ``calculation`` (right operands, wrong result); ``propagated`` (rightly worked out from an
            earlier wrong value); ``inconsistent_with_earlier`` (operands that belong neither to the chain nor to the line before);
            ``no_content`` (nothing of the task's format).
    """

    is_correct: bool
    error_type: str


def step_truths(question: str, steps: Sequence[str]) -> list[StepTruth]:
    """The truth of every step of a response to ``question``.

    A step is one line, or the word ``wait`` with the line that follows it. ``wait`` goes back to the place of the line
    before it, so a corrected line is right again (Error Termination), and a line that builds on a wrong value is wrong
    however well it is worked out (Error Propagation). The answer is right when it is the chain's final value.
    """
    chain = parse_question(question)
    expected, values = chain.lines, chain.values
    truths: list[StepTruth] = []
    place = 0
    written = chain.start  # the value the response itself has reached
    for step in steps:
        truth = StepTruth(False, "no_content")
        for line in (part.strip() for part in step.split("\n")):
            if not line:
                continue
            if line == REFLECTION:
                place = max(place - 1, 0)
                written = values[min(place, len(values) - 1)]  # a correction starts again from the question's own value
                continue
            if line.startswith(ANSWER.strip()):
                said = line[len(ANSWER.strip()) :].strip()
                truth = StepTruth(said == chain.answer, "none" if said == chain.answer else "propagated")
                continue
            if place < len(expected) and line == expected[place]:
                truth, written = StepTruth(True, "none"), values[place + 1]
            else:
                truth, written = _classify_wrong_line(line, chain, place, written)
            place += 1
        truths.append(truth)
    return truths


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
