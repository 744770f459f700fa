"""P(right) of each verdict in an LLM judge's answer, from the log-probs of the token that decides it.

A verdict is decided where the answer first says it: at ``correct`` or ``wrong`` of a line, and in JSON at ``error_type``,
which the schema puts before ``correct`` and which leaves that no choice (where ``correct`` comes first, there). All tokens
that begin or complete a word for "right" are added up, and so are those for "wrong"; white space around them does not
matter. P(right) is the share of the first in both.

A verdict that is not among the listed tokens is less probable than the least of them, so it is taken to be as probable as
that. Where this would weigh more than what was found, nothing is known. A token that may still become either word is
followed to the next one where it was drawn, and left out where it was not.

vLLM's log-probs are those before temperature, top_p and penalties (``logprobs_mode`` ``raw_logprobs``), and after the mask of
a schema (``tests/contract/test_judge_scores.py`` shows both). A schema allows all verdicts at such a place, so their share is
the model's own.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from bcpg_cluster.records import ErrorType
from bcpg_cluster.stages.generate.protocol import MOST_LOGPROBS, TokenChoice

SCORED_FORMATS: Final = frozenset({"json", "lines"})
"""Values of ``JudgePrompt.answer`` in which verdicts are found."""
NUM_TOP_LOGPROBS: Final = MOST_LOGPROBS
"""Of each token of an answer; also the most that OpenAI gives."""

_LINE: Final = re.compile(r"^[ \t]*(\d+)[:.)]?[ \t]+(correct|wrong)\b", re.MULTILINE)
_KEY: Final = re.compile(r'"(?:correct"\s*:\s*(?P<digit>[01])(?![\d.])|error_type"\s*:\s*"(?P<error>\w+)")')
_ANSWER_KEY: Final = '"verdicts"'


@dataclass(frozen=True, slots=True)
class ScoredVerdict:
    """One verdict as it stands in an answer.

    Attributes:
        label: what was drawn.
        score: P(right); ``None`` where the log-probs do not tell.
        step: the number beside it; ``None`` in JSON, where the order says it.
    """

    label: int
    score: float | None
    step: int | None = None


@dataclass(frozen=True, slots=True)
class _Words:
    right: tuple[str, ...]
    wrong: tuple[str, ...]

    def label(self, begun: str) -> int | None:
        """1 or 0 where ``begun`` can only become such a word; ``None`` where it may become either, or neither."""
        is_right, is_wrong = (any(_may_become(begun, word) for word in words) for words in (self.right, self.wrong))
        return int(is_right) if is_right != is_wrong else None

    def is_open(self, begun: str) -> bool:
        """Whether ``begun`` may become words of both kinds."""
        return all(any(_may_become(begun, word) for word in words) for words in (self.right, self.wrong))


_OF_LINES: Final = _Words(("correct",), ("wrong",))
_OF_DIGITS: Final = _Words(("1",), ("0",))
_OF_ERRORS: Final = _Words(
    (str(ErrorType.NONE),), tuple(str(error) for error in ErrorType if error is not ErrorType.NONE)
)


def scored_verdicts(texts: Sequence[str], choice: Callable[[int], TokenChoice | None]) -> tuple[ScoredVerdict, ...]:
    """The verdicts of an answer, in its order; what precedes the answer (thoughts in lines) may be among them.

    Args:
        texts: what each token adds to the answer.
        choice: the token at an index beside the most probable ones; ``None`` where no log-probs are known.
    """
    answer = "".join(texts)
    if _ANSWER_KEY in answer:
        return tuple(
            ScoredVerdict(label, _score(texts, choice, at, words)) for label, at, words in _json_places(answer)
        )
    return tuple(
        ScoredVerdict(
            int(line[2] == "correct"),
            _score(texts, choice, line.start(2), _OF_LINES),
            int(line[1]) if len(line[1]) < 10 else -1,
        )
        for line in _LINE.finditer(answer)
    )


def scores_of(verdicts: Sequence[ScoredVerdict], labels: Sequence[int], first: int) -> list[float | None]:
    """P(right) of steps ``first..`` whose ``labels`` were read from the same answer; ``None`` for all where the verdicts that
    were found are not those.
    """
    found = verdicts[-len(labels) :]
    if any(verdict.step is None for verdict in verdicts) and len(verdicts) != len(labels):
        return [None] * len(labels)
    steps = [index if verdict.step is None else verdict.step for index, verdict in enumerate(found, start=first)]
    if steps != list(range(first, first + len(labels))) or [verdict.label for verdict in found] != list(labels):
        return [None] * len(labels)
    return [verdict.score for verdict in found]


def _json_places(answer: str) -> Iterator[tuple[int, int, _Words]]:
    """Of each entry of the last answer: its label, where that is first said, and in which words."""
    keys = list(_KEY.finditer(answer, answer.rindex(_ANSWER_KEY)))
    for one, other in zip(keys[::2], keys[1::2], strict=False):
        digit = one["digit"] or other["digit"]
        if digit is None or (one["digit"] is None) == (other["digit"] is None):
            return  # no pair of both keys: this is not the answer's form
        if one["digit"] is None:
            yield int(digit), one.start("error"), _OF_ERRORS
        else:
            yield int(digit), one.start("digit"), _OF_DIGITS


def _score(texts: Sequence[str], choice: Callable[[int], TokenChoice | None], at: int, words: _Words) -> float | None:
    """P(right) of the verdict whose word begins at character ``at``."""
    index, before = _token_at(texts, at)
    begun, right, wrong, weight = "", 0.0, 0.0, 1.0
    lead = texts[index][:before].strip()
    while index < len(texts):
        token = choice(index)
        if token is None or not math.isfinite(token.logprob):
            return None
        drawn = begun + _after(texts[index], lead)
        found = {0: 0.0, 1: 0.0}
        for text, logprob in ((texts[index], token.logprob), *token.others):
            label = words.label(begun + _after(text, lead)) if text.strip().startswith(lead) else None
            if label is not None:
                found[label] += math.exp(logprob)
        if not words.is_open(drawn):
            return _share(right, wrong, weight, found, math.exp(token.floor))
        right, wrong = right + weight * found[1], wrong + weight * found[0]
        weight *= math.exp(token.logprob)
        begun, lead, index = drawn, "", index + 1
    return None


def _share(right: float, wrong: float, weight: float, found: dict[int, float], floor: float) -> float | None:
    """The share of "right", with what was found before the last token, and ``weight`` on that."""
    both = found[0] + found[1]
    if both <= 0.0 or not math.isfinite(both):
        return None
    for label in (0, 1):
        if not found[label]:
            if floor > both:
                return None
            found = found | {label: floor}
    right, wrong = right + weight * found[1], wrong + weight * found[0]
    return right / (right + wrong) if right + wrong > 0.0 else None


def _token_at(texts: Sequence[str], at: int) -> tuple[int, int]:
    """The token that character ``at`` is in, and how many characters of it stand before."""
    start = 0
    for index, text in enumerate(texts):
        if start <= at < start + len(text):
            return index, at - start
        start += len(text)
    raise ValueError(f"character {at} of {start}")


def _after(text: str, lead: str) -> str:
    return text.strip()[len(lead) :].lstrip()


def _may_become(begun: str, word: str) -> bool:
    """Whether ``begun`` is a beginning of ``word``, or the word with something after it that ends it."""
    if not begun:
        return False
    if word.startswith(begun):
        return True
    rest = begun[len(word) :]
    return begun.startswith(word) and not (rest[0].isalnum() or rest[0] == "_")
