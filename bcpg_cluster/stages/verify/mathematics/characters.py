"""Characters of other scripts and keyboards as the ASCII and LaTeX that means the same."""

from __future__ import annotations

import re
import unicodedata

_NAMED = {
    # punctuation and spaces
    "，": ",", "、": ",", "；": ";", "：": ":", "∶": ":", "。": ".", "（": "(", "）": ")", "【": "[", "】": "]",
    "‘": "'", "’": "'", "′": "'", "“": '"', "”": '"', "％": "%", "￥": "¥", "￡": "£", "￦": "₩", "￠": "¢", "⁄": "/", "∕": "/",
    "\u00a0": " ", "\u3000": " ", "\u2002": " ", "\u2003": " ", "\u2007": "\\,", "\u2008": "\\,", "\u2009": "\\,",
    "\u200a": "\\,", "\u202f": "\\,", "\u200b": "", "\u200c": "", "\u200d": "", "\u2060": "", "\ufeff": "", "\u00ad": "",
    # operators and relations
    "−": "-", "–": "-", "‒": "-", "﹣": "-", "×": "\\times ", "✕": "\\times ", "·": "\\cdot ", "⋅": "\\cdot ",
    "∙": "\\cdot ", "÷": "\\div ", "±": "\\pm ", "∓": "\\mp ", "≤": "\\le ", "≥": "\\ge ", "⩽": "\\le ", "⩾": "\\ge ",
    "≠": "\\ne ", "≈": "\\approx ", "∈": "\\in ", "∉": "\\notin ", "∪": "\\cup ", "∩": "\\cap ", "∖": "\\setminus ",
    "∞": "\\infty ", "∅": "\\emptyset ", "⌀": "\\emptyset ", "°": "^\\circ ", "º": "^\\circ ", "∘": "\\circ ",
    "∠": "\\angle ", "…": "\\ldots ", "⋯": "\\cdots ", "ℝ": "\\mathbb{R}", "ℤ": "\\mathbb{Z}", "ℕ": "\\mathbb{N}",
    "ℚ": "\\mathbb{Q}", "ℂ": "\\mathbb{C}", "→": "\\to ", "⟨": "\\langle ", "⟩": "\\rangle ",
    # units in one character
    "℃": "^\\circ C", "℉": "^\\circ F", "㎜": "mm", "㎝": "cm", "㎞": "km", "㎎": "mg", "㎏": "kg", "㎡": "m^2", "㎥": "m^3",
    # letters
    "α": "\\alpha ", "β": "\\beta ", "γ": "\\gamma ", "δ": "\\delta ", "ε": "\\epsilon ", "θ": "\\theta ",
    "λ": "\\lambda ", "μ": "\\mu ", "π": "\\pi ", "ρ": "\\rho ", "σ": "\\sigma ", "τ": "\\tau ", "φ": "\\phi ",
    "ϕ": "\\phi ", "χ": "\\chi ", "ψ": "\\psi ", "ω": "\\omega ", "Δ": "\\Delta ", "Ω": "\\Omega ", "Σ": "\\Sigma ",
}  # fmt: skip
_RAISED = dict(zip("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿ", "0123456789+-n", strict=True))
_LOWERED = dict(zip("₀₁₂₃₄₅₆₇₈₉₊₋", "0123456789+-", strict=True))
_RUN_RAISED = re.compile(f"[{''.join(_RAISED)}]+")
_RUN_LOWERED = re.compile(f"[{''.join(_LOWERED)}]+")
_ROOT = re.compile(r"([√∛∜])\s*")
_ROOT_ARGUMENT = re.compile(
    r"\((?P<group>[^()]*(?:\([^()]*\)[^()]*)*)\)|\{(?P<braces>[^{}]*)\}|(?P<one>[0-9]+(?:\.[0-9]+)?|\\?\w)"
)
_DEGREE = {"√": "", "∛": "[3]", "∜": "[4]"}


def to_latex(text: str) -> str:
    """The same text in ASCII and LaTeX, as far as a character has a plain meaning; the others stay."""
    if text.isascii():
        return text
    text = _RUN_RAISED.sub(lambda run: "^{" + "".join(map(_RAISED.__getitem__, run.group())) + "}", text)
    text = _RUN_LOWERED.sub(lambda run: "_{" + "".join(map(_LOWERED.__getitem__, run.group())) + "}", text)
    return _with_roots("".join(_plain(character) for character in text))


def _plain(character: str) -> str:
    if character.isascii():
        return character
    if character in _NAMED:
        return _NAMED[character]
    if character in _DEGREE:
        return character
    if unicodedata.category(character) == "Nd":  # digits of any script
        return str(unicodedata.digit(character))
    written = unicodedata.normalize("NFKC", character)
    if "⁄" in written:  # vulgar fractions
        above, _, below = written.partition("⁄")
        return f"\\frac{{{above}}}{{{below or 'x'}}}"
    is_form = "\uff01" <= character <= "\uff5e" or 0x1D400 <= ord(character) <= 0x1D7FF
    return written if is_form else character


def _with_roots(text: str) -> str:
    pieces, position = [], 0
    while root := _ROOT.search(text, position):
        pieces.append(text[position : root.start()])
        argument = _ROOT_ARGUMENT.match(text, root.end())
        inside = next(filter(None, argument.groups()), "") if argument else ""
        pieces.append(f"\\sqrt{_DEGREE[root.group(1)]}{{{inside}}}" if inside else f"\\sqrt{_DEGREE[root.group(1)]} ")
        position = argument.end() if argument and inside else root.end()
    return "".join([*pieces, text[position:]])
