"""Where a step that is too long is cut: at a line or sentence, at worst at a word; never in a formula or in code."""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from itertools import pairwise

from bcpg_cluster.stages.segment.token_borders import Border, TokenPlaces

LINE = re.compile(r"[^\n]*\n|[^\n]+")
SENTENCE_START = re.compile(r"(?:[.!?][\"')\]*]*\s|[\u3002\uff01\uff1f])\s*(?=\S)")
_WORD_START = re.compile(r"(?<=\S)[ \t]+(?=\S)")


def cut_long(
    borders: Sequence[Border], places: TokenPlaces, barred: set[int], *, min_tokens: int, max_tokens: int
) -> list[Border]:
    """Add borders inside steps longer than ``max_tokens``: the last line or sentence that fits, else the last word.

    What a cut leaves for the next step has ``min_tokens`` at least. A step without a safe place stays long. ``barred`` are
    characters at which no step may begin.
    """
    edges = [0, *(border.token for border in borders), places.num_tokens]
    if all(end - start <= max_tokens for start, end in pairwise(edges)):
        return list(borders)
    text = places.text
    lines = {line.start() for line in LINE.finditer(text) if not line.group().isspace()}
    sentences = {match.end() for match in SENTENCE_START.finditer(text) if text[match.end() - 1] != "\n"}
    good = _safe_borders((lines | sentences) - barred, places)
    fair = _safe_borders({match.end() for match in _WORD_START.finditer(text)} - barred, places)
    result: list[Border] = []
    start = 0
    for border in [*borders, None]:
        end = places.num_tokens if border is None else border.token
        while end - start > max_tokens:
            low, high = start + min_tokens, end - min_tokens
            fitting = min(start + max_tokens, high)
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


def _safe_borders(at: set[int], places: TokenPlaces) -> list[Border]:
    """Borders at the given characters, without those that would cut a formula or a token."""
    first = len(places.text) - len(places.text.lstrip())
    asked = [(place, False, False) for place in sorted(at) if first < place < len(places.text)]
    return [border for border in places.borders(asked) if not border.is_shared]


def _last_between(borders: Sequence[Border], low: int, high: int) -> Border | None:
    """The last border with ``low <= token <= high``."""
    index = bisect_right(borders, high, key=lambda border: border.token) - 1
    return borders[index] if index >= 0 and borders[index].token >= low else None


def _first_between(borders: Sequence[Border], low: int, high: int) -> Border | None:
    """The first border with ``low <= token <= high``."""
    index = bisect_left(borders, low, key=lambda border: border.token)
    return borders[index] if index < len(borders) and borders[index].token <= high else None
