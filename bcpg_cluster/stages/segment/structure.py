r"""Steps by structure: lines or paragraphs, reflection cues, ``</think>`` (docs/method.md; stage 1 of arXiv 2505.14403).

Three passes, all linear in the text::

    text  ──► places where a step may begin: lines or paragraphs, reflection cues, `</think>`      (characters)
          ──► the same places moved to token borders, those inside formulas and code left out      (tokens)
          ──► short steps merged, long ones cut at a safe place                                    (tokens)

The steps tile the tokens exactly and their texts join to the response, whatever the tokens are. :func:`piece_cuts` gives
the places alone, for ``stages.segment.merge``.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from bcpg_cluster.records import Step
from bcpg_cluster.stages.segment.cues import REFLECTION_CUES, any_cue
from bcpg_cluster.stages.segment.long_steps import LINE, SENTENCE_START, cut_long
from bcpg_cluster.stages.segment.token_borders import Border, TokenPlaces, steps_between


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
    places = TokenPlaces(token_texts, text)
    beginnings, lone = _beginnings(text, rules)
    borders = places.borders(beginnings)
    borders = _merge_short(borders, len(token_texts), rules.min_tokens)
    if rules.max_tokens and len(token_texts) > rules.max_tokens:
        borders = cut_long(borders, places, lone, min_tokens=rules.min_tokens, max_tokens=rules.max_tokens)
    return steps_between(token_texts, borders)


def piece_cuts(text: str, rules: StepRules) -> list[int]:
    """The characters at which a step may begin by ``rules``, in order, before any is merged or cut by length."""
    return [at for at, _, _ in _beginnings(text, rules)[0]]


THINK_END = re.compile(r"</think>(?:\s*\n)?")


@lru_cache(maxsize=16)
def _cue_patterns(cues: tuple[str, ...]) -> tuple[re.Pattern[str], re.Pattern[str]]:
    """A pattern for text that begins with a cue, and one for a line that holds nothing but cues."""
    cue = f"(?:{any_cue(cues)})"
    return (
        re.compile(rf"[ \t*_]*+{cue}", re.IGNORECASE),
        re.compile(rf"(?>[\W_]*+{cue})++[\W_]*+", re.IGNORECASE),
    )


def _beginnings(text: str, rules: StepRules) -> tuple[list[tuple[int, bool, bool]], set[int]]:
    """Characters at which a step begins as (place, is hard, is cue), and those where none may (after a lone cue)."""
    starts_with_cue, only_cues = _cue_patterns(rules.cues)
    content_end = len(text.rstrip())
    hard = {match.end() for match in THINK_END.finditer(text) if match.end() < content_end}
    soft: dict[int, bool] = {}
    lone: set[int] = set()
    has_text = after_blank = after_lone = False
    for line in LINE.finditer(text):
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
            for sentence in SENTENCE_START.finditer(text, at, line.end()):
                if starts_with_cue.match(text, sentence.end(), line.end()):
                    soft[sentence.end()] = True
        after_lone = content == "<think>" or only_cues.fullmatch(content) is not None
        has_text, after_blank = True, False
    ordered = sorted({*soft, *hard})
    return [(at, at in hard, soft.get(at, False)) for at in ordered], lone - hard


def _merge_short(borders: Sequence[Border], num_tokens: int, min_tokens: int) -> list[Border]:
    """Leave borders out until every step has ``min_tokens``, or nothing but hard borders around it."""
    if min_tokens <= 1:
        return list(borders)
    kept: list[Border] = []
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
