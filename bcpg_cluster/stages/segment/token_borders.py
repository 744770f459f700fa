"""From places in a text to borders between the tokens that spell it, and from borders to steps.

A token is never divided. What each token adds to the text comes from the sampler (``records.Rollout.token_texts``), so
multi-byte characters and special tokens need nothing here.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from bcpg_cluster.records import Step
from bcpg_cluster.stages.segment.protected_spans import protected_spans


@dataclass(slots=True)
class Border:
    """A place where a step may begin. ``token`` is its first token, ``at`` the character it was asked for."""

    token: int
    at: int
    is_hard: bool = False
    is_cue: bool = False
    is_shared: bool = False


class TokenPlaces:
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
        self._protected = protected_spans(text)
        self._protected_starts = [start for start, _ in self._protected]

    def is_protected(self, at: int) -> bool:
        """A cut at ``at`` would divide a formula or a code fence."""
        index = bisect_left(self._protected_starts, at) - 1
        return index >= 0 and at < self._protected[index][1]

    def border(self, at: int) -> Border | None:
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
        return Border(self._tokens[k - 1] + 1, at, is_shared=is_shared)

    def character(self, token: int) -> int:
        """The character at which the first token with text from ``token`` on starts."""
        k = bisect_left(self._tokens, token)
        return self._starts[k] if k < len(self._starts) else len(self.text)

    def is_visible(self, start: int, end: int) -> bool:
        """Tokens ``start..end-1`` hold visible text."""
        return bool(self.text[self.character(start) : self.character(end)].strip())

    def borders(self, beginnings: Sequence[tuple[int, bool, bool]]) -> list[Border]:
        """Token borders for the (place, is hard, is cue) given in order.

        Left out are borders that would cut a formula, and steps with no visible text of their own: what a shared token
        left of them goes with the step before.
        """
        found: list[Border] = []
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


def steps_between(token_texts: Sequence[str], borders: Sequence[Border]) -> list[Step]:
    """The steps that begin at the first token and at ``borders``.

    Raises:
        RuntimeError: they would not tile the tokens, which is a mistake in this package.
    """
    edges = [0, *(border.token for border in borders), len(token_texts)]
    if any(start >= end for start, end in pairwise(edges)):
        raise RuntimeError(f"step borders {edges} do not tile {len(token_texts)} tokens")
    shared = [*(border.is_shared for border in borders), False]
    return [
        Step(start, end, "".join(token_texts[start:end]), is_shared)
        for (start, end), is_shared in zip(pairwise(edges), shared, strict=True)
    ]
