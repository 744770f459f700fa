r"""From a response's tokens to its steps, by one of several ways to find pieces (docs/method.md).

::

    StructuralSegmenter   lines, paragraphs, reflection cues     ──┐
    DelimiterSegmenter    cut at given strings                   ──┼──►  merge_pieces, or every piece is a step
    SatSegmenter          sentences, by a trained model          ──┘

A segmenter is anything callable with a response's token texts that returns steps which tile them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

from bcpg_cluster.records import Step
from bcpg_cluster.stages.segment.merge import MergeRules, merge_pieces
from bcpg_cluster.stages.segment.structure import StepRules, piece_cuts, segment

Segmenter = Callable[[Sequence[str]], list[Step]]


@dataclass(frozen=True, slots=True)
class StructuralSegmenter:
    """Steps by structure. With ``merge``, the rules' own ``min_tokens`` and ``max_tokens`` are not used."""

    rules: StepRules = field(default_factory=StepRules)
    merge: MergeRules | None = None

    def __call__(self, token_texts: Sequence[str]) -> list[Step]:
        """The steps of a response."""
        if self.merge is None:
            return segment(token_texts, self.rules)
        return merge_pieces(token_texts, piece_cuts("".join(token_texts), self.rules), self.merge)


@dataclass(frozen=True, slots=True)
class DelimiterSegmenter:
    r"""Pieces between given strings. A string belongs to the piece it ends (``after``) or begins (``before``).

    Attributes:
        after: a piece ends after each of these, and after the line breaks that follow it. A ``\n`` in a string is also
            found as ``\r\n``.
        before: a piece begins at each of these (``"## Step"``).
        merge: how pieces become steps; ``None`` makes a step of every piece.

    Raises:
        ValueError: there is no string to cut at, or an empty one.
    """

    after: tuple[str, ...] = ("\n\n",)
    before: tuple[str, ...] = ()
    merge: MergeRules | None = None

    def __post_init__(self) -> None:
        """Check the strings."""
        given = (*self.after, *self.before)
        if not given or "" in given:
            raise ValueError(f"delimiters {given!r}: at least one string, and no empty one")

    def __call__(self, token_texts: Sequence[str]) -> list[Step]:
        """The steps of a response."""
        return merge_pieces(token_texts, delimiter_cuts("".join(token_texts), self.after, self.before), self.merge)


def delimiter_cuts(text: str, after: tuple[str, ...], before: tuple[str, ...]) -> list[int]:
    """The characters at which a piece begins, in order; where strings overlap, the longest counts."""
    ends = {match.end() for match in _any_of(after, r"(?:\r?\n)*+").finditer(text)}
    starts = {match.start() for match in _any_of(before, "").finditer(text)}
    return sorted(ends | starts)


@lru_cache(maxsize=16)
def _any_of(strings: tuple[str, ...], tail: str) -> re.Pattern[str]:
    words = "|".join(_either_line_break(string) for string in sorted(strings, key=len, reverse=True)) or r"(?!)"
    return re.compile(f"(?:{words}){tail}")


def _either_line_break(string: str) -> str:
    return r"\r?\n".join(re.escape(part) for part in re.split(r"(?<!\r)\n", string))


_BLANK_LINES = re.compile(r"\n[^\S\n]*+\n\s*")


def blank_line_cuts(text: str) -> list[int]:
    """The characters at which text continues after a blank line, in order."""
    return [match.end() for match in _BLANK_LINES.finditer(text)]
