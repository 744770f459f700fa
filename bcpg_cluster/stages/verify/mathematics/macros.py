r"""LaTeX in one spelling: arguments in braces, one name a command, no sizes, no spacing.

TeX takes the next token for an argument without braces: ``\frac12`` is 1/2, ``\frac1{20}`` is 1/20, ``\sqrt2x`` is √2·x.
"""

from __future__ import annotations

import re

_NUM_ARGUMENTS = {"frac": 2, "binom": 2, "sqrt": 1}
_ARGUMENTS = re.compile(r"\\(frac|binom|sqrt)(?![a-zA-Z])")
_TOKEN = re.compile(r"\s*(?:(\\[a-zA-Z]+)|(\\[^a-zA-Z])|([^\\}\s]))")
_ESCAPED_OR_BRACE = re.compile(r"\\[\s\S]|[{}]")
_INDEX = re.compile(r"\s*\[[^\[\]]*\]")
_MAX_DEPTH = 3
_BRACKETS = {
    "\\lbrack": "[", "\\rbrack": "]", "\\lparen": "(", "\\rparen": ")", "\\lbrace": "\\{", "\\rbrace": "\\}",
}  # fmt: skip
_RENAMED = (
    (re.compile(r"\\[dtc]frac(?![a-zA-Z])"), r"\\frac"),
    (re.compile(r"\\[dt]binom(?![a-zA-Z])"), r"\\binom"),
    (re.compile(r"\\(?:varnothing|empty)(?![a-zA-Z])"), r"\\emptyset"),
    (re.compile(r"\\(?:mbox|textrm|textnormal|textup|mathrm|rm|operatorname|textsf|mathsf|textit|mathit)(?=\s*\{)"), r"\\text"),
    (re.compile(r"\\(?:mathrm|text|rm)\s*\{\s*([ie])\s*\}"), r"\1"),
    (re.compile(r"\\log\s*_\s*([0-9a-z])"), r"\\log_{\1}"),
    (re.compile(r"\\(?:leqslant|leqq)(?![a-zA-Z])"), r"\\le"),
    (re.compile(r"\\(?:geqslant|geqq)(?![a-zA-Z])"), r"\\ge"),
    (re.compile(r"\\(?:mathbf|textbf|boldsymbol|bm|bold|pmb|mathbin|ensuremath|underline)\s*(?=\{)"), ""),
    (re.compile(r"\\m?(?:left|right)(?![a-zA-Z])\s*\.?|\\(?:middle|[bB]igg?[lrm]?)(?![a-zA-Z])\s*"), ""),
    (re.compile(r"\\(?:displaystyle|textstyle|limits|nolimits|hfill|strut)(?![a-zA-Z])"), " "),
    (re.compile(r"\\(?:lbrack|lparen|lbrace|rbrack|rparen|rbrace)(?![a-zA-Z])\s*"), lambda m: _BRACKETS[m.group().strip()]),
    (re.compile(r"\\(?:degree|textdegree)(?![a-zA-Z])(?:\{\})?"), r"^\\circ "),
    (re.compile(r"\^\s*\{\s*\\circ\s*\}"), r"^\\circ "),
    (re.compile(r"\{\s*,\s*\}"), r"{,}"),
)  # fmt: skip
_GROUPS_OF_THREE = re.compile(r"(?<![0-9.])[0-9]{1,3}(?:(?:\\[,;: ]|\{,\}|,?\\!\s*|~)[0-9]{3})+(?![0-9])")
_NEGATIVE_SPACE = re.compile(r"(?<!\\)\\!")
_SPACING = re.compile(r"(?<!\\)\\(?:[,;:> ]|quad(?![a-zA-Z])|qquad(?![a-zA-Z])|enspace(?![a-zA-Z])|hspace\{[^{}]*\})|~")


def brace_pairs(text: str) -> dict[int, int]:
    """Where each group that opens closes, by its place; escaped braces and groups that never close are left out."""
    pairs, opened = {}, []
    for found in _ESCAPED_OR_BRACE.finditer(text):
        if found.group() == "{":
            opened.append(found.start())
        elif found.group() == "}" and opened:
            pairs[opened.pop()] = found.start()
    return pairs


def with_braces(text: str) -> str:
    r"""Put braces around arguments that have none, for ``\frac``, ``\binom`` and ``\sqrt``."""
    if not _ARGUMENTS.search(text):
        return text
    pairs = brace_pairs(text)
    inserted: list[tuple[int, str]] = []
    for command in _ARGUMENTS.finditer(text):
        for start, end in _arguments(text, command, pairs):
            if start not in pairs:
                inserted += [(start, "{"), (end, "}")]
    pieces, position = [], 0
    for place, brace in sorted(inserted, key=lambda item: item[0]):
        pieces += [text[position:place], brace]
        position = place
    return "".join([*pieces, text[position:]])


def one_spelling(text: str) -> str:
    """The same expression with one name for each command and without what only the eye needs."""
    for pattern, name in _RENAMED:
        text = pattern.sub(name, text)
    text = _GROUPS_OF_THREE.sub(lambda number: re.sub(r"[^0-9]", "", number.group()), text)
    text = _SPACING.sub(" ", _NEGATIVE_SPACE.sub("", text))
    return with_braces(text)


def _arguments(text: str, command: re.Match[str], pairs: dict[int, int], depth: int = 0) -> list[tuple[int, int]]:
    """From where to where a command's arguments stand; fewer than it takes where the text gives no more."""
    position = command.end()
    if command.group(1) == "sqrt" and (index := _INDEX.match(text, position)):
        position = index.end()
    spans: list[tuple[int, int]] = []
    for _ in range(_NUM_ARGUMENTS[command.group(1)]):
        token = _TOKEN.match(text, position)
        if token is None or token.group(2):
            break
        start = token.start(token.lastindex or 0)
        end = token.end()
        if text[start] == "{":
            if start not in pairs:
                break
            end = pairs[start] + 1
        # \frac1\sqrt2: TeX itself wants braces here, people leave them out
        elif (inner := _ARGUMENTS.match(text, start)) is not None:
            arguments = _arguments(text, inner, pairs, depth + 1) if depth < _MAX_DEPTH else []
            if len(arguments) < _NUM_ARGUMENTS[inner.group(1)]:
                break
            end = arguments[-1][1]
        spans.append((start, end))
        position = end
    return spans
