r"""From a response's tokens to its steps (docs/method.md; stage 1 of arXiv 2505.14403).

Three passes, all linear in the text::

    text  ──► places where a step may begin: lines or paragraphs, reflection cues, `</think>`      (characters)
          ──► the same places moved to token borders, those inside formulas and code left out      (tokens)
          ──► short steps merged, long ones cut at a safe place                                    (tokens)

The steps tile the tokens exactly and their texts join to the response, whatever the tokens are.
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Literal

from bcpg_cluster.records import Step

REFLECTION_CUES = (
    "wait",
    "but wait",
    "hold on",
    "hmm",
    "alternatively",
    "actually",
    "however",
    "let me check",
    "let me double-check",
    "let me verify",
    "let me recheck",
    "let me think again",
    "let me reconsider",
    "double-check",
)


@dataclass(frozen=True, slots=True)
class StepRules:
    r"""How a response falls into steps. The defaults suit the embedded task: every line is a step.

    Attributes:
        split_on: ``line``: each line that is not blank begins a step; ``paragraph``: each line after a blank one does.
        cues: words of reflection; upper and lower case are the same. A line that begins with one begins a step, also
            within a paragraph; a line that holds nothing else is merged with what follows it.
        cues_inside_lines: a cue at the beginning of a sentence begins a step too.
        min_tokens: a shorter step joins the next one (or the one before, where a cue or ``</think>`` follows).
        max_tokens: a longer step is cut where a line, a sentence or a word begins; 0 is off. A step without such a
            place outside of ``$...$``, ``\[..\]``, ``\(..\)``, ``\begin..\end`` and code fences stays long.

    Raises:
        ValueError: the rules contradict themselves.
    """

    split_on: Literal["line", "paragraph"] = "line"
    cues: tuple[str, ...] = REFLECTION_CUES
    cues_inside_lines: bool = False
    min_tokens: int = 1
    max_tokens: int = 0

    def __post_init__(self) -> None:
        """Check the rules against each other."""
        if self.split_on not in ("line", "paragraph"):
            raise ValueError(f"split_on is {self.split_on!r}; known: 'line', 'paragraph'")
        if self.min_tokens < 1:
            raise ValueError(f"min_tokens is {self.min_tokens}; it must be at least 1 (which is off)")
        if self.max_tokens < 0 or 0 < self.max_tokens < self.min_tokens:
            raise ValueError(f"max_tokens is {self.max_tokens}; it is 0 (off) or >= {self.min_tokens} (min_tokens)")
        bad = [cue for cue in self.cues if not cue or cue != cue.strip() or "\n" in cue]
        if bad:
            raise ValueError(f"cues {bad} are empty, padded with space, or longer than a line")


@dataclass(slots=True)
class _Border:
    """A place where a step may begin. ``token`` is its first token, ``at`` the character it was asked for."""

    token: int
    at: int
    is_hard: bool = False
    is_cue: bool = False
    is_shared: bool = False


def segment(token_texts: Sequence[str], rules: StepRules) -> list[Step]:
    """Cut a response into steps.

    A token whose visible text belongs to two steps goes to the earlier one and sets its ``shares_last_token``. A token
    with no text (a special one, or a part of a character that a later token completes) goes with the text that follows,
    at the end with the last step.

    Args:
        token_texts: what each token adds to the text (:class:`bcpg_cluster.records.Rollout`).
        rules: how to cut.

    Returns:
        Steps in order: the first starts at 0, each starts where the one before ends, the last ends at the last token,
        and their texts join to the response's text. Nothing for a response of no tokens.
    """
    if not token_texts:
        return []
    text = "".join(token_texts)
    places = _Places(token_texts, text)
    beginnings, lone = _beginnings(text, rules)
    borders = places.borders(beginnings)
    borders = _merge_short(borders, len(token_texts), rules.min_tokens)
    if rules.max_tokens and len(token_texts) > rules.max_tokens:
        borders = _cut_long(borders, places, lone, rules)
    edges = [0, *(border.token for border in borders), len(token_texts)]
    shared = [*(border.is_shared for border in borders), False]
    return [
        Step(start, end, "".join(token_texts[start:end]), is_shared)
        for (start, end), is_shared in zip(pairwise(edges), shared, strict=True)
    ]


class _Places:
    """Where a place in the text falls among the tokens, and which places are inside formulas or code."""

    def __init__(self, token_texts: Sequence[str], text: str) -> None:
        self.text = text
        self.num_tokens = len(token_texts)
        self._tokens = [index for index, piece in enumerate(token_texts) if piece]  # those with text
        self._starts: list[int] = []  # the character each of them starts at
        length = 0
        for index in self._tokens:
            self._starts.append(length)
            length += len(token_texts[index])
        self._protected = _protected_spans(text)
        self._protected_starts = [start for start, _ in self._protected]

    def is_protected(self, at: int) -> bool:
        """A cut at ``at`` would divide a formula or a code fence."""
        index = bisect_left(self._protected_starts, at) - 1
        return index >= 0 and at < self._protected[index][1]

    def border(self, at: int) -> _Border | None:
        """The token border for a cut at character ``at``; ``None`` when there is none inside the response."""
        k = bisect_right(self._starts, at) - 1
        start = self._starts[k]
        end = self._starts[k + 1] if k + 1 < len(self._starts) else len(self.text)
        is_shared = False
        if start < at:
            before, after = self.text[start:at].strip(), self.text[at:end].strip()
            is_shared = bool(before and after)
            if before or not after:  # the token stays with the earlier step
                k, start = k + 1, end
        if k == 0 or k == len(self._starts):
            return None
        return _Border(self._tokens[k - 1] + 1, at, is_shared=is_shared)

    def character(self, token: int) -> int:
        """The character at which the first token with text from ``token`` on starts."""
        k = bisect_left(self._tokens, token)
        return self._starts[k] if k < len(self._starts) else len(self.text)

    def is_visible(self, start: int, end: int) -> bool:
        """Tokens ``start..end-1`` hold visible text."""
        return bool(self.text[self.character(start) : self.character(end)].strip())

    def borders(self, beginnings: Sequence[tuple[int, bool, bool]]) -> list[_Border]:
        """Token borders for the (place, is hard, is cue) given in order.

        Left out are borders that would cut a formula, and steps with no visible text of their own: what a shared token
        left of them goes with the step before.
        """
        found: list[_Border] = []
        for at, is_hard, is_cue in beginnings:
            border = self.border(at)
            if border is None or (
                not is_hard and (self.is_protected(at) or self.is_protected(self.character(border.token)))
            ):
                continue
            border.is_hard, border.is_cue = is_hard, is_cue
            if found and not self.is_visible(found[-1].token, border.token):
                border.is_hard = is_hard or found[-1].is_hard
                found[-1] = border
            else:
                found.append(border)
        if found and not self.is_visible(found[-1].token, self.num_tokens):
            found.pop()
        return found


_LINE = re.compile(r"[^\n]*\n|[^\n]+")
_THINK_END = re.compile(r"</think>(?:\s*\n)?")
_SENTENCE_START = re.compile(r"(?:[.!?][\"')\]*]*\s|[\u3002\uff01\uff1f])\s*(?=\S)")
_WORD_START = re.compile(r"(?<=\S)[ \t]+(?=\S)")


@lru_cache(maxsize=16)
def _cue_patterns(cues: tuple[str, ...]) -> tuple[re.Pattern[str], re.Pattern[str]]:
    """A pattern for text that begins with a cue, and one for a line that holds nothing but cues."""
    words = "|".join(re.escape(cue) for cue in sorted(cues, key=len, reverse=True)) or r"(?!)"
    cue = rf"(?:{words})(?!\w)"
    return (
        re.compile(rf"[ \t*_]*+{cue}", re.IGNORECASE),
        re.compile(rf"(?>[\W_]*+{cue})++[\W_]*+", re.IGNORECASE),
    )


def _beginnings(text: str, rules: StepRules) -> tuple[list[tuple[int, bool, bool]], set[int]]:
    """Characters at which a step begins as (place, is hard, is cue), and those where none may (after a lone cue)."""
    starts_with_cue, only_cues = _cue_patterns(rules.cues)
    content_end = len(text.rstrip())
    hard = {match.end() for match in _THINK_END.finditer(text) if match.end() < content_end}
    soft: dict[int, bool] = {}
    lone: set[int] = set()
    has_text = after_blank = after_lone = False
    for line in _LINE.finditer(text):
        content, at = line.group().strip(), line.start()
        if not content:
            after_blank = True
            continue
        is_cue = starts_with_cue.match(text, at, line.end()) is not None
        if after_lone:
            lone.add(at)
        elif has_text and content != "</think>" and (is_cue or after_blank or rules.split_on == "line"):
            soft[at] = is_cue
        if rules.cues_inside_lines:
            for sentence in _SENTENCE_START.finditer(text, at, line.end()):
                if starts_with_cue.match(text, sentence.end(), line.end()):
                    soft[sentence.end()] = True
        after_lone = content == "<think>" or only_cues.fullmatch(content) is not None
        has_text, after_blank = True, False
    ordered = sorted({*soft, *hard})
    return [(at, at in hard, soft.get(at, False)) for at in ordered], lone - hard


_DELIMITER = re.compile(
    r"(?P<think></think>)|(?P<blank>\n[ \t\r]*(?=\n))|(?P<fence>^[ \t]*(?:```+|~~~+)[^\n]*$)|\\\\|\\\$"
    r"|(?P<open>\\[\[(])|(?P<close>\\[\])])|\\(?P<edge>begin|end)\{(?P<name>[^{}\n]*)\}|(?P<display>\$\$)|(?P<inline>\$)",
    re.MULTILINE,
)


def _protected_spans(text: str) -> list[tuple[int, int]]:
    r"""Formulas and code as character spans, in order and apart. An opening that is never closed protects nothing.

    An inline ``$`` opens only before and closes only after visible text, within one paragraph, so that prices are not
    formulas. ``</think>`` ends everything.
    """
    marks = list(_DELIMITER.finditer(text))
    closing = _closing_marks(text, marks)
    spans = []
    index = 0
    while index < len(marks):
        end = closing.get(index)
        if end is None:
            index += 1
        else:
            spans.append((marks[index].start(), marks[end].end()))
            index = end + 1
    return spans


def _closing_marks(text: str, marks: Sequence[re.Match[str]]) -> dict[int, int]:
    """For every opening mark that is closed, the index of the mark that closes it. Read from the end, once."""
    closing: dict[int, int] = {}
    next_of: dict[str, int] = {}  # the nearest later mark that closes a kind
    ends: dict[str, list[int]] = {}  # by environment: `\end`s not yet matched
    for index in range(len(marks) - 1, -1, -1):
        mark = marks[index]
        kind = mark.lastgroup
        if kind == "think":
            next_of.clear()
            ends.clear()
        elif kind == "blank":
            next_of.pop("$", None)
        elif kind == "fence":
            fence = mark.group().strip()
            if fence[0] in next_of:
                closing[index] = next_of[fence[0]]
            if not fence.strip(fence[0]):  # a closing fence is bare
                next_of[fence[0]] = index
        elif kind == "open":
            wanted = {"\\[": "\\]", "\\(": "\\)"}[mark.group()]
            if wanted in next_of:
                closing[index] = next_of[wanted]
        elif kind == "close":
            next_of[mark.group()] = index
        elif kind == "name":
            if mark["edge"] == "end":
                ends.setdefault(mark["name"], []).append(index)
            elif ends.get(mark["name"]):
                closing[index] = ends[mark["name"]].pop()
        elif kind == "display":
            if "$$" in next_of:
                closing[index] = next_of["$$"]
            next_of["$$"] = index
        elif kind == "inline":
            opens = not text[mark.end() : mark.end() + 1].isspace()
            if opens and "$" in next_of and not text[marks[next_of["$"]].start() - 1].isspace():
                closing[index] = next_of["$"]
            next_of["$"] = index
    return closing


def _merge_short(borders: Sequence[_Border], num_tokens: int, min_tokens: int) -> list[_Border]:
    """Leave borders out until every step has ``min_tokens``, or nothing but hard borders around it."""
    if min_tokens <= 1:
        return list(borders)
    kept: list[_Border] = []
    start = 0
    for border in borders:
        if border.token - start < min_tokens:
            can_merge_back = bool(kept) and not kept[-1].is_hard
            if can_merge_back and (border.is_hard or border.is_cue):
                kept.pop()
            elif not border.is_hard:
                continue
        kept.append(border)
        start = border.token
    if kept and num_tokens - start < min_tokens and not kept[-1].is_hard:
        kept.pop()
    return kept


def _cut_long(borders: Sequence[_Border], places: _Places, lone: set[int], rules: StepRules) -> list[_Border]:
    """Add borders inside steps longer than ``max_tokens``: the last line or sentence that fits, else the last word."""
    text = places.text
    lines = {line.start() for line in _LINE.finditer(text) if not line.group().isspace()}
    sentences = {match.end() for match in _SENTENCE_START.finditer(text) if text[match.end() - 1] != "\n"}
    good = _safe_borders((lines | sentences) - lone, places)
    fair = _safe_borders({match.end() for match in _WORD_START.finditer(text)} - lone, places)
    result: list[_Border] = []
    start = 0
    for border in [*borders, None]:
        end = places.num_tokens if border is None else border.token
        while end - start > rules.max_tokens:
            low, high = start + rules.min_tokens, end - rules.min_tokens
            fitting = min(start + rules.max_tokens, high)
            cut = _last_between(good, low, fitting) or _last_between(fair, low, fitting)
            if cut is None:  # nothing safe fits: the first safe place after it
                later = [c for c in (_first_between(good, fitting, high), _first_between(fair, fitting, high)) if c]
                cut = min(later, key=lambda c: c.token, default=None)
            if cut is None:
                break
            if places.is_visible(start, cut.token):  # else a shared token has taken all there was
                result.append(cut)
            start = cut.token
        if border is not None:
            result.append(border)
        start = end
    return result


def _safe_borders(at: set[int], places: _Places) -> list[_Border]:
    """Borders at the given characters, without those that would cut a formula or a token."""
    first = len(places.text) - len(places.text.lstrip())
    asked = [(place, False, False) for place in sorted(at) if first < place < len(places.text)]
    return [border for border in places.borders(asked) if not border.is_shared]


def _last_between(borders: Sequence[_Border], low: int, high: int) -> _Border | None:
    """The last border with ``low <= token <= high``."""
    index = bisect_right(borders, high, key=lambda border: border.token) - 1
    return borders[index] if index >= 0 and borders[index].token >= low else None


def _first_between(borders: Sequence[_Border], low: int, high: int) -> _Border | None:
    """The first border with ``low <= token <= high``."""
    index = bisect_left(borders, low, key=lambda border: border.token)
    return borders[index] if index < len(borders) and borders[index].token <= high else None
