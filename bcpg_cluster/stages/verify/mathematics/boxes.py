r"""Which ``\boxed{}`` of a response is its answer.

Long responses reflect: they box a value, doubt it, and box another. The last box counts. Boxes before it belong to the answer
only where all of them are one list ("``\boxed{3}`` and ``\boxed{5}``"). A box that echoes the instruction
("``\boxed{answer}``") is no box at all.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

from bcpg_cluster.stages.verify.mathematics.macros import brace_pairs

_COMMAND = re.compile(r"\\(?:boxed|fbox)(?![a-zA-Z])\s*")
_BARE_NUMBER = re.compile(r"-?[0-9]+(?:\.[0-9]+)?")
_PLACEHOLDERS = frozenset(
    {
        *("answer", "answer here", "your answer", "your answer here", "your final answer", "final answer"),
        *("final answer here", "the answer", "the final answer", "insert answer here", "result here"),
        *("dots", "ldots", "cdots", "...", "…"),
    }
)
_PLACEHOLDER_DRESS = re.compile(r"\\(?:text|textbf|textit|mathrm|mathbf)\b|[\\{}\[\]<>$_*]|^\s*(?:insert\s+)?\[|\.$")
_MAX_BETWEEN = 70  # characters between two boxes of one list
_SENTENCE_END = re.compile(r"[.!?](?:[\s$\\)]|$)|[。！？]|\n\s*\n\s*\S*[A-Za-z]")
_SEPARATOR = re.compile(
    r"[,;、，；&]|(?<!\w)(?:and|or|und|oder|et|ou|y|o|и|или|及|和|与|或|または|そして)(?!\w)|[和与或及]"
)
_NEXT_ITEM = re.compile(r"[\s$\\()\[\]]*(?:[-*]|\(?\w[.)]|)[\s$\\()\[\]]*")
_OTHER_WORDS = re.compile(
    # an item's label: x =, the other root is, (b), part 2:
    r"(?<!\w)(?:(?:the|a|an|one|other|another|first|second|third|fourth|last|next|larger|smaller|greater|lesser|largest|smallest|"
    r"maximum|minimum|positive|negative|root|solution|value|case|part|for|of|is|are|also|both|"
    r"[a-z]{1,2}(?:_\{?\w{1,2}\}?)?|[0-9]+)\b)",
    re.IGNORECASE,
)
_SPACE_COMMANDS = re.compile(r"\\(?:text|mathrm|quad|qquad)(?![a-zA-Z])")
_RESTATED = re.compile(r"(?<!\w)(?:i\.e|ie|so|no|it|be|we|my|ok|oh|hm)(?!\w)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Box:
    r"""One ``\boxed{}``: where its command starts and ends in the text, and what is in it; ``None`` when it never closes."""

    start: int
    end: int
    content: str | None


def find_boxes(text: str) -> Iterator[Box]:
    r"""All outermost boxes in order, those without an end as well; ``\boxed 5`` needs no braces."""
    pairs, position = brace_pairs(text), 0
    while command := _COMMAND.search(text, position):
        position = command.end()
        if text[position : position + 1] == "{":
            end = pairs.get(position)
            if end is None:
                yield Box(command.start(), position + 1, None)
                position += 1
            else:
                yield Box(command.start(), end + 1, text[position + 1 : end])
                position = end + 1
        elif number := _BARE_NUMBER.match(text, position):
            yield Box(command.start(), number.end(), number.group())
            position = number.end()


def answer_boxes(text: str) -> tuple[Box, ...]:
    """The boxes that are the answer, in order: the last one, and those it is one list with. Empty where there is no box."""
    boxes = [box for box in find_boxes(text) if not is_placeholder(box)]
    chosen: list[Box] = boxes[-1:]
    for before, after in reversed(list(pairwise(boxes))):
        are_filled = all((box.content or "").strip() for box in (before, after))
        if not are_filled or not is_list_between(text[before.end : after.start]):
            break
        chosen.insert(0, before)
    return tuple(chosen)


def is_placeholder(box: Box) -> bool:
    """Whether a box repeats the wording of an instruction instead of an answer."""
    words = _PLACEHOLDER_DRESS.sub(" ", box.content or "")
    return " ".join(words.lower().split()) in _PLACEHOLDERS or (box.content or "").strip() in ("...", "…")


def is_list_between(between: str) -> bool:
    """Whether the text between two boxes makes them items of one list, rather than takes the first one back.

    It stays within a sentence, separates (a comma, "and", a new line), and has no words but an item's label.
    """
    if _NEXT_ITEM.fullmatch(between):
        return True
    if len(between) > _MAX_BETWEEN or _SENTENCE_END.search(between) or not _SEPARATOR.search(between):
        return False
    words = _SEPARATOR.sub(" ", between)
    if _RESTATED.search(words):
        return False
    rest = _OTHER_WORDS.sub(" ", _SPACE_COMMANDS.sub(" ", words))
    return not re.search(r"[^\W\d_]", rest)


def without_placeholders(text: str) -> str:
    """The text with the instruction's boxes taken out."""
    pieces, position = [], 0
    for box in find_boxes(text):
        if is_placeholder(box):
            pieces.append(text[position : box.start])
            position = box.end
    return "".join([*pieces, text[position:]])
