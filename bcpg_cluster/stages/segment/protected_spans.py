r"""Formulas and code in a text: spans no step border may divide (docs/method.md)."""

from __future__ import annotations

import re
from collections.abc import Sequence

_MARK = re.compile(
    r"(?P<think></think>)|(?P<blank>\n[ \t\r]*(?=\n))|(?P<fence>^[ \t]*(?:```+|~~~+)[^\n]*$)|\\\\|\\\$"
    r"|(?P<open>\\[\[(])|(?P<close>\\[\])])|\\(?P<edge>begin|end)\{(?P<name>[^{}\n]*)\}|(?P<display>\$\$)|(?P<inline>\$)",
    re.MULTILINE,
)


def protected_spans(text: str) -> list[tuple[int, int]]:
    r"""Formulas and code as character spans, in order and apart. An opening that is never closed protects nothing.

    An inline ``$`` opens only before and closes only after visible text, within one paragraph, so that prices are not
    formulas. ``</think>`` ends everything.
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
