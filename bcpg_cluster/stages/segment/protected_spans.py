r"""Formulas and code in a text: spans no step border may divide (docs/method.md)."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Sequence

_MARK = re.compile(
    r"(?P<think></think>)|(?P<blank>\n[ \t\r]*(?=\n))|(?P<fence>^[ \t]*(?:```+|~~~+)[^\n]*$)|\\\\|\\\$"
    r"|(?P<open>\\[\[(])|(?P<close>\\[\])])|\\(?P<edge>begin|end)\{(?P<name>[^{}\n]*)\}|(?P<display>\$\$)|(?P<inline>\$)",
    re.MULTILINE,
)


def protected_spans(text: str) -> list[tuple[int, int]]:
    r"""Formulas and code as character spans, in order and apart. An opening that is never closed protects nothing.

    An inline ``$`` opens only before and closes only after visible text, within one paragraph, so that prices are not
    formulas. A code fence is closed by a bare one of the same character that is at least as long. ``</think>`` ends
    everything.
    """
    marks = list(_MARK.finditer(text))
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
    fences = _ClosingFences()
    for index in range(len(marks) - 1, -1, -1):
        mark = marks[index]
        kind = mark.lastgroup
        if kind == "think":
            next_of.clear()
            ends.clear()
            fences = _ClosingFences()
        elif kind == "blank":
            next_of.pop("$", None)
        elif kind == "fence":
            end = fences.closing(mark.group().strip())
            if end is not None:
                closing[index] = end
            fences.add(index, mark.group().strip())
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


class _ClosingFences:
    """Bare fences after the place that is read, nearest last; one behind a nearer and longer one can close nothing."""

    def __init__(self) -> None:
        self._by_character: dict[str, list[tuple[int, int]]] = {"`": [], "~": []}  # (length, index), lengths falling

    def closing(self, fence: str) -> int | None:
        """The index of the nearest fence that closes this one."""
        bare = self._by_character[fence[0]]
        place = bisect_right(bare, -_length(fence), key=lambda entry: -entry[0])
        return bare[place - 1][1] if place else None

    def add(self, index: int, fence: str) -> None:
        """Take in a fence that stands before all others; one with a language closes nothing."""
        if fence.strip(fence[0]):
            return
        bare = self._by_character[fence[0]]
        while bare and bare[-1][0] <= len(fence):
            bare.pop()
        bare.append((len(fence), index))


def _length(fence: str) -> int:
    return len(fence) - len(fence.lstrip(fence[0]))
