r"""The lines that a model may name as the beginning of a step, and what it is asked about them.

A line is a line or a sentence of the text; one that begins inside a formula or code is part of the line before. The question
numbers them from 1 over the whole response. A long response is asked about in parts, each with a few lines before it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from bcpg_cluster.stages.judge.llm.answer_schema import json_value
from bcpg_cluster.stages.segment.long_steps import LINE, SENTENCE_START
from bcpg_cluster.stages.segment.token_borders import TokenPlaces

BEFORE: Final = 3  # lines shown, without a number, before a later part

SYSTEM: Final = """You divide solutions of problems into reasoning steps. A step is one complete move of the argument: it sets \
something up, computes or derives one result, checks one, or takes up another approach. What belongs to one move stays together, \
also over several lines; two results are two steps.

You are shown a solution as numbered lines. Answer with the numbers of the lines that begin a step, in rising order, as JSON and \
nothing else:
{"starts": [1, 4, 7]}"""

AGAIN: Final = """This answer cannot be read. Answer with one JSON object alone: {"starts": [...]}, where the list holds \
whole numbers from <first> to <last> in rising order, each of them once."""


@dataclass(frozen=True, slots=True)
class NumberedLines:
    """The lines of a response. Line number k, from 1, is ``text[begins[k - 1] : begins[k]]``."""

    text: str
    begins: tuple[int, ...]

    @classmethod
    def of(cls, token_texts: Sequence[str]) -> NumberedLines:
        """Those of a response with visible text; the first begins at character 0."""
        text = "".join(token_texts)
        lines = {line.start() for line in LINE.finditer(text) if not line.group().isspace()}
        sentences = {match.end() for match in SENTENCE_START.finditer(text) if text[match.end() - 1] != "\n"}
        places = TokenPlaces(token_texts, text)
        first = len(text) - len(text.lstrip())
        inner = sorted(at for at in lines | sentences if at > first and not places.is_protected(at))
        return cls(text, (0, *inner))

    def parts(self, max_lines: int) -> list[tuple[int, int]]:
        """Numbers of the first and last line of every part: equal parts of at most ``max_lines`` lines."""
        number = len(self.begins)
        count = -(-number // max_lines)
        edges = [number * part // count for part in range(count + 1)]
        return [(start + 1, end) for start, end in pairwise(edges)]

    def messages(self, first: int, last: int) -> tuple[dict[str, str], ...]:
        """The question about lines ``first..last``."""
        before = [self._line(number) for number in range(max(first - BEFORE, 1), first)]
        shown = ["The lines before, for context:", *before, ""] if before else []
        numbered = [f"{number}: {self._line(number)}" for number in range(first, last + 1)]
        asked = f"Which of the lines {first} to {last} begin a step?"
        user = "\n".join([*shown, "The solution:" if first == 1 else "The solution continues:", *numbered, "", asked])
        return ({"role": "system", "content": SYSTEM}, {"role": "user", "content": user})

    def _line(self, number: int) -> str:
        end = self.begins[number] if number < len(self.begins) else len(self.text)
        return self.text[self.begins[number - 1] : end].strip("\r\n")


def starts_schema(first: int, last: int) -> str:
    """The JSON schema, as text, of an answer about lines ``first..last``."""
    items = {"type": "integer", "enum": list(range(first, last + 1))}
    starts = {"type": "array", "items": items, "minItems": 1 if first == 1 else 0, "maxItems": last - first + 1}
    schema = {"type": "object", "properties": {"starts": starts}, "required": ["starts"], "additionalProperties": False}
    return json.dumps(schema, separators=(",", ":"))


def read_starts(answer: str, first: int, last: int) -> tuple[int, ...] | None:
    """The line numbers of an answer; ``None`` where it is not exactly what was asked for.

    Whole numbers in ``first..last``, rising, each once; at least one of the part that begins the response. One code fence around
    the whole answer is taken off, and thoughts that end with ``</think>``.
    """
    text = answer.rpartition("</think>")[2].strip()
    if text.startswith("```") and text.endswith("```"):
        text = text.removeprefix("```")[:-3].strip()
        text = text[4:] if text[:4].lower() == "json" else text
    content = json_value(text)
    starts = content.get("starts") if isinstance(content, dict) and set(content) == {"starts"} else None
    if not isinstance(starts, list) or any(type(number) is not int for number in starts):
        return None
    if any(one >= other for one, other in pairwise(starts)) or (not starts and first == 1):
        return None
    return tuple(starts) if all(first <= number <= last for number in starts) else None
