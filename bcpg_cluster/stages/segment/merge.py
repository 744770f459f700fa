r"""Pieces merged into steps of a size a judge can grade (docs/method.md).

A splitter gives small pieces: sentences, lines, whatever stands between delimiters. They are joined from the left; the
step so far is closed before the next piece when one of these holds::

    tokens >= min_tokens     and the next piece begins with a cue ("Wait", "So", ...)
    tokens >= target_tokens  and the step so far ends a paragraph
    tokens + those of the next piece > max_tokens

always after ``</think>``, and never inside a formula or a code fence. All of it is linear in the text.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from bcpg_cluster.records import Step
from bcpg_cluster.stages.segment.cues import STEP_CUES, any_cue
from bcpg_cluster.stages.segment.long_steps import cut_long
from bcpg_cluster.stages.segment.structure import THINK_END
from bcpg_cluster.stages.segment.token_borders import Border, TokenPlaces, steps_between


@dataclass(frozen=True, slots=True)
class MergeRules:
    """How pieces become steps; see the module's docstring. Sizes are in response tokens.

    Attributes:
        min_tokens: a step shorter than this is not closed by a cue.
        target_tokens: from here on the end of a paragraph closes a step.
        max_tokens: no two pieces are joined beyond this, and a piece that is longer by itself is cut where a line, a
            sentence or a word begins (it stays long where there is no such place outside of formulas and code); 0 is off.
        cues: words that begin a new thought; upper and lower case are the same. ``()`` closes steps by size alone.

    Raises:
        ValueError: the rules contradict themselves.
    """

    min_tokens: int = 64
    target_tokens: int = 256
    max_tokens: int = 512
    cues: tuple[str, ...] = STEP_CUES

    def __post_init__(self) -> None:
        """Check the rules against each other."""
        if not 1 <= self.min_tokens <= self.target_tokens:
            raise ValueError(
                f"min_tokens is {self.min_tokens} and target_tokens {self.target_tokens}; 1 <= min_tokens <= target_tokens"
            )
        if self.max_tokens and self.max_tokens < self.target_tokens:
            raise ValueError(
                f"max_tokens is {self.max_tokens}; it is 0 (off) or >= {self.target_tokens} (target_tokens)"
            )
        bad = [cue for cue in self.cues if not cue or cue != cue.strip() or "\n" in cue]
        if bad:
            raise ValueError(f"cues {bad} are empty, padded with space, or longer than a line")


def merge_pieces(token_texts: Sequence[str], cuts: Sequence[int], rules: MergeRules | None) -> list[Step]:
    """Steps of a response from the places where its pieces begin.

    Args:
        token_texts: what each token adds to the text (:class:`bcpg_cluster.records.Rollout`).
        cuts: characters of the joined text at which a piece begins, in any order; those at its edges say nothing.
        rules: how to merge; ``None`` makes a step of every piece.

    Returns:
        Steps as :func:`bcpg_cluster.stages.segment.structure.segment` returns them: they tile the tokens and the text, and a token
        with visible text of two steps goes to the earlier one, which says so.
    """
    if not token_texts:
        return []
    text = "".join(token_texts)
    places = TokenPlaces(token_texts, text)
    barred = _barred(text)
    borders = places.borders(_asked(text, cuts, barred, rules.cues if rules else ()))
    if rules is not None:
        if 0 < rules.max_tokens < len(token_texts):
            borders = cut_long(borders, places, barred, min_tokens=rules.min_tokens, max_tokens=rules.max_tokens)
        borders = _merge(borders, places, rules)
    return steps_between(token_texts, borders)


def cue_at(text: str, at: int, cues: tuple[str, ...]) -> str | None:
    """The cue that text from ``at`` on begins with, as it is written there; ``None`` without one.

    Space and the marks of lists, quotes, headings and emphasis may stand before it.
    """
    match = _cue_pattern(cues).match(text, at)
    return match["cue"] if match else None


@lru_cache(maxsize=16)
def _cue_pattern(cues: tuple[str, ...]) -> re.Pattern[str]:
    # Bounded, so that cuts inside a long run of spaces do not each read all of it.
    return re.compile(rf"[\s*_#>-]{{0,16}}+(?P<cue>{any_cue(cues)})", re.IGNORECASE)


def _asked(text: str, cuts: Sequence[int], barred: set[int], cues: tuple[str, ...]) -> list[tuple[int, bool, bool]]:
    """Where steps may begin, as (place, is hard, is cue), in order."""
    content_start, content_end = len(text) - len(text.lstrip()), len(text.rstrip())
    hard = {match.end() for match in THINK_END.finditer(text) if match.end() < content_end}
    soft = {cut for cut in cuts if content_start < cut < content_end} - barred
    return [(at, at in hard, cue_at(text, at, cues) is not None) for at in sorted(soft | hard)]


_THINK_START = re.compile(r"<think>\s*")


def _barred(text: str) -> set[int]:
    """Places at which no piece begins: within ``<think>`` and ``</think>``, and where a step of nothing else would result."""
    barred: set[int] = set()
    for match in THINK_END.finditer(text):
        start = match.start()
        while start > 0 and text[start - 1].isspace():
            start -= 1
        barred.update(range(start, match.end()))
    for match in _THINK_START.finditer(text):
        barred.update(range(match.start() + 1, match.end() + 1))
    return barred


def _merge(borders: Sequence[Border], places: TokenPlaces, rules: MergeRules) -> list[Border]:
    """The borders that stay."""
    kept: list[Border] = []
    start = 0
    for index, border in enumerate(borders):
        end = borders[index + 1].token if index + 1 < len(borders) else places.num_tokens  # of the next piece
        size = border.token - start
        if (
            border.is_hard
            or (size >= rules.min_tokens and border.is_cue)
            or (size >= rules.target_tokens and _ends_paragraph(places.text, border.at))
            or 0 < rules.max_tokens < end - start
        ):
            kept.append(border)
            start = border.token
    return kept


def _ends_paragraph(text: str, at: int) -> bool:
    """A blank line lies in the white space around ``at``."""
    start = end = at
    while start > 0 and text[start - 1].isspace():
        start -= 1
    while end < len(text) and text[end].isspace():
        end += 1
    return text.count("\n", start, end) >= 2
