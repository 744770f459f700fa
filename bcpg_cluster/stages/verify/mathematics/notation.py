r"""What an answer says, whatever it is written in: gold answers and responses come through here alike.

The result is one or two :class:`Reading`. Two where the notation has two meanings: ``2e-1`` is 0.2, or twice Euler's number less
one; ``5 m`` is five metres, or five times m. Two answers are equal when any of their readings are.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from bcpg_cluster.stages.verify.mathematics.characters import to_latex
from bcpg_cluster.stages.verify.mathematics.macros import brace_pairs, one_spelling, with_braces
from bcpg_cluster.stages.verify.mathematics.numbers import Number, read_number
from bcpg_cluster.stages.verify.mathematics.units import Unit, is_symbol, read_unit

_MAX_REWRITTEN = 2000  # characters; longer answers are compared as they stand

_WRAPPERS = (("$$", "$$"), ("$", "$"), ("\\(", "\\)"), ("\\[", "\\]"), ("**", "**"))
_LABEL = re.compile(r"^(?:the\s+)?(?:final\s+)?(?:answer|result)\s*(?:is|:|=)\s*", re.IGNORECASE)
_BOX = re.compile(r"\\(?:boxed|fbox)\s*\{")
_WHOLE_TEXT = re.compile(r"\\text\s*\{([^{}]*)\}\s*\.?")
_E_NOTATION = re.compile(r"(?<![\w.\\}])([0-9]++(?:\.[0-9]*+)?|\.[0-9]++)[eE]([+-]?[0-9]{1,3})(?!\w|\.[0-9])")
_REPEATING = re.compile(
    r"(?<![\w.])([0-9]*)\.([0-9]*)(?:\\(?:overline|bar|dot)\s*\{?([0-9]+)\}?|([0-9]{1,3}?)\4{2,}(?:\.\.\.|\\[lc]?dots))"
)
_LEADING_POINT = re.compile(r"(?<![0-9])\.(?=[0-9])")
_PERCENT = re.compile(
    r"(?<=[0-9}.])\s*\\?%|\s*(?:\\text\s*\{\s*)?(?<![a-zA-Z])(?:percent|per cent|pct)(?![a-zA-Z])\.?\s*\}?"
)
_MIXED = re.compile(r"(?<![\w.^{}/\\])([0-9]+)\s+([0-9]+)\s*/\s*([0-9]+)(?![\w./])")
_WORD_ROOT = re.compile(r"(?<![\\a-zA-Z])sqrt\s*(?:\(([^()]*(?:\([^()]*\)[^()]*)*)\)|([0-9]+))")
_POWER = re.compile(r"(\^|\*\*)\s*\(([^()]*)\)|\*\*\s*(-?\w+)")
_OR = re.compile(
    r"(?:\\text\s*\{\s*,?\s*(?:or|and|oder|und|ou|et|o|y|e|или|и|或|和|与|または|および|또는|및|veya|ve|lub|eller|og|och)\s*\}|"
    r"(?<![\w\\])(?:oder|und|ou|et|или|и|veya|ve|lub|eller)(?!\w)|\\lor(?![a-zA-Z])|\\vee(?![a-zA-Z])|[或和与]|または|および|또는)"
)
_SPACED_GROUPS = re.compile(r"[0-9]{1,3}(?: [0-9]{3})+|[0-9]{1,3}(?:'[0-9]{3})+")
_OPEN_BORDERS = re.compile(r"\]\s*([^\[\]]+[,;][^\[\]]+)\s*\[")
_RELATION_ALONE = re.compile(r"\s*(?:\\(?:geq?|leq?|neq?|gt|lt)(?![a-zA-Z])|[<>])")
_SCALES = {"thousand": 3, "million": 6, "billion": 9, "trillion": 12, "万": 4, "亿": 8}
_SCALE = re.compile(
    rf"(?P<number>[0-9.,]*[0-9])\s*(?:\\text\s*\{{\s*)?(?P<scale>{'|'.join(_SCALES)})\s*\}}?(?P<rest>.*)", re.DOTALL
)
_CURRENCY = re.compile(r"^([+-]?)\s*(\\\$|[€£¥₹₩₽]|US\\?\$)\s*(?=[+-]?[0-9.])|\s*(\\\$|[€£¥₹₩₽])$")
_CURRENCY_IN_TEXT = re.compile(r"\\text\s*\{\s*([€£¥₹₩₽]|\\?\$)\s*\}")
_DEGREES = re.compile(r"\^\s*\{?\\circ\s*\}?\s*(?:\\text\s*\{\s*)?([CF]?)\s*\}?$")
_DEGREES_INSIDE = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*\^\s*\\circ")
_ANGLE_FUNCTION = re.compile(r"\\(?:sin|cos|tan|cot|sec|csc)(?![a-zA-Z])")
_UNIT_IN_TEXT = re.compile(
    r"(?P<head>.*?[^\s\\])\s*(?P<words>\\text\s*\{\s*[^{}\\0-9=<>]*(?:\^\s*(?:[23]|\{[23]\})\s*)?\}(?:\s*/\s*\\text\s*\{[^{}\\0-9=<>]*\})?"
    r"(?:\s*\^\s*(?:\{\s*-?[0-9]\s*\}|[0-9]))?)\s*\.?",
    re.DOTALL,
)
_IN_TEXT = re.compile(r"\\text\s*\{((?:[^{}]|\{[^{}]*\})*)\}")
_SQUARED = r"(?:\s*\^\s*\{?[23]\}?)?"
_UNIT_IN_WORDS = re.compile(
    r"(?P<head>[^a-zA-Z]*[0-9}](?:\\pi)?)(?P<gap>\s*)"
    rf"\(?(?P<words>[^\W\d_][^\W\d_.]*(?:[ /][^\W\d_]+)*{_SQUARED}|[^\W\d_]\.[^\W\d_]\.)\)?\.?"
)
_UNIT_AFTER_MACROS = re.compile(
    r"(?P<head>[^a-zA-Z]*(?:\\(?:frac|sqrt|pi|times|cdot)(?![a-zA-Z])[^a-zA-Z]*)+)(?P<gap>\s*)"
    rf"(?P<words>[^\W\d_]+(?:[ /][^\W\d_]+)*{_SQUARED})\.?"
)
_NO_UNITS = frozenset(
    re.findall(
        r"\w+",
        "or and if to mod modulo over times plus minus not but oder und ou et through thru of from base than "
        "half dozen hundred pair pairs tens double triple twice squared cubed factorial root percent pct "
        "inf infinity sin cos tan cot sec csc log ln exp sqrt pi choose more less least most only such that for where",
    )
)
_TIME = re.compile(r"([01]?[0-9]|2[0-4]):([0-5][0-9])(?::([0-5][0-9]))?")
_BASED = re.compile(
    r"\(?\s*([+-]?[0-9A-F]+)\s*\)?\s*_\s*"
    r"(?:\{\s*(?:\\text\s*\{)?\s*([0-9]{1,2}|[a-z]+)\s*\}?\s*\}|([0-9]{1,2}))"
)
_BASES = dict(
    zip(
        ["two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve", "sixteen"],
        [*range(2, 13), 16],
        strict=True,
    )
)
_WORDS = re.compile(r"[^\W\d_]+(?:[ '-][^\W\d_]+)*")


@dataclass(frozen=True, slots=True)
class Reading:
    """One meaning of an answer.

    Attributes:
        text: its LaTeX in one spelling, without a unit.
        number: its value where it is a rational number.
        unit: the unit of measure it is in, where it says a known one.
        label: what is compared as it stands: a time of day (``12:00``), a number in a base (``204_5``), words (``monday``).
        kind: what the label is: ``time``, ``base``, ``words``, or empty without one.
    """

    text: str
    number: Number | None = None
    unit: Unit | None = None
    label: str = ""
    kind: str = ""


def read_answer(answer: str) -> tuple[Reading, ...]:
    """The meanings of an answer, the likelier first; empty for an answer without any text."""
    text = unwrapped(one_spelling(to_latex(answer)) if len(answer) <= _MAX_REWRITTEN else answer)
    if not text:
        return ()
    if len(text) > _MAX_REWRITTEN:
        return (Reading(text, read_number(text)),)
    if (number := read_number(text)) is not None:
        return (Reading(text, number),)
    text = _with_plain_notation(text)
    scientific = _E_NOTATION.sub(_times_power, text)
    first = _with_unit(scientific)
    readings = [first]
    if scientific != text or (first.unit is not None and first.text != text and _may_be_a_variable(text)):
        readings.append(_labelled(Reading(text)))
    return tuple(readings)


def unwrapped(text: str) -> str:
    r"""An answer without what stands around it: ``$``, ``\(``, bold, a box, a label, a full stop at its end."""
    previous = None
    while text != previous:
        previous = text
        text = text.strip().rstrip(",;:").strip()
        if text.endswith(".") and not text.endswith(".."):
            text = text[:-1].rstrip()
        if box := _BOX.match(text):
            end = brace_pairs(text).get(box.end() - 1)
            if end == len(text) - 1:
                text = text[box.end() : end]
        for opening, closing in _WRAPPERS:
            inner = text[len(opening) : len(text) - len(closing)]
            is_around = len(text) > len(opening) + len(closing) and text.startswith(opening) and text.endswith(closing)
            if is_around and opening not in inner.replace("\\$", ""):
                text = inner
        if text[:1] == "{" and brace_pairs(text).get(0) == len(text) - 1:
            text = text[1:-1]
        text = _LABEL.sub("", text, count=1)
    return text


def plain_text(response: str) -> str:
    """A whole response in ASCII and LaTeX, for finding its last expression where it has no box."""
    text = with_braces(re.sub(r"\\[dtc]frac(?![a-zA-Z])", r"\\frac", to_latex(response)))
    return _E_NOTATION.sub(_written_out, text)


def _with_plain_notation(text: str) -> str:
    text = _OR.sub(" , ", text)
    text = _REPEATING.sub(_as_fraction, text)
    text = _LEADING_POINT.sub("0.", text)
    if _ANGLE_FUNCTION.search(text):
        text = _DEGREES_INSIDE.sub(r"(\\frac{\1 \\pi}{180})", text)
    text = _PERCENT.sub(r"\\%", text)
    text = _MIXED.sub(r"\1\\frac{\2}{\3}", text)
    text = _WORD_ROOT.sub(lambda root: f"\\sqrt{{{root.group(1) or root.group(2)}}}", text)
    text = _POWER.sub(lambda power: f"^{{{power.group(2) or power.group(3)}}}", text)
    if ";" in text and not re.search(r"[0-9],[0-9]", text):
        text = text.replace(";", ",")
    if borders := _OPEN_BORDERS.fullmatch(text):
        text = f"({borders.group(1)})"
    if _SPACED_GROUPS.fullmatch(text):
        text = re.sub(r"[ ']", "", text)
    if _RELATION_ALONE.match(text):  # math-verify would drop the sign
        text = f"x {text}"
    return " ".join(text.split())


def _with_unit(text: str) -> Reading:
    """The reading in which what follows a value is its unit."""
    if currency := _CURRENCY_IN_TEXT.match(text):
        text = currency.group(1) + text[currency.end() :]
    text, unit = _peeled_currency(text)
    if scale := _SCALE.fullmatch(text):
        rest = scale["rest"].removesuffix("}").strip()
        text = f"{scale['number']} \\times 10^{{{_SCALES[scale['scale']]}}} {rest}".strip()
    text, peeled = _peeled(text)
    unit = unit or peeled
    return replace(_labelled(Reading(text)), unit=unit)


def _peeled_currency(text: str) -> tuple[str, Unit | None]:
    """A value without its currency sign, and the currency."""
    currency = _CURRENCY.search(text)
    if currency is None:
        return text, None
    rest = (text[: currency.start()] + (currency.group(1) or "") + text[currency.end() :]).strip()
    return (rest, read_unit(currency.group(2) or currency.group(3))) if rest else (text, None)


def _peeled(text: str) -> tuple[str, Unit | None]:
    """A value and the unit it is in; unknown units (apples) are taken off as well."""
    if (degrees := _DEGREES.search(text)) and not _ANGLE_FUNCTION.search(text):
        rest = text[: degrees.start()].strip()
        if rest:
            return rest, read_unit(f"°{degrees.group(1)}")
    if (match := _UNIT_IN_TEXT.fullmatch(text)) and not match["head"].endswith((",", "=", "(", "{", "^", "_")):
        words = _IN_TEXT.sub(r"\1", match["words"])
        if not set(words.lower().split()) & _NO_UNITS and match["head"].count("{") == match["head"].count("}"):
            return match["head"].strip(), read_unit(words)
    for pattern in (_UNIT_IN_WORDS, _UNIT_AFTER_MACROS):
        if match := pattern.fullmatch(text):
            unit = read_unit(match["words"])
            if _is_unit(match["words"], unit, has_gap=bool(match["gap"])):
                return match["head"].strip(), unit
    return text, None


def _is_unit(words: str, unit: Unit | None, *, has_gap: bool) -> bool:
    """Whether words after a number are its unit, or what is counted, and no part of an expression."""
    if set(words.lower().split()) & _NO_UNITS:
        return False
    if is_symbol(words):
        return unit is not None and has_gap
    if unit is not None or not words.isascii():
        return True
    return has_gap and len(words.split()[0]) > 2


def _may_be_a_variable(text: str) -> bool:
    r"""Whether the unit at the end is one letter outside of ``\text``, such as ``5 m``."""
    return bool(re.search(r"(?<![a-zA-Z\\])[a-zA-Z]$", text))


def _labelled(reading: Reading) -> Reading:
    """The reading with its number, or with the label that it is compared by."""
    text = reading.text
    if whole := _WHOLE_TEXT.fullmatch(text):
        text = whole.group(1).strip()
        if (number := read_number(text)) is not None:
            return replace(reading, text=text, number=number)
    elif (number := read_number(text)) is not None:
        return replace(reading, number=number)
    if time := _TIME.fullmatch(text):
        return replace(reading, label=f"{int(time.group(1))}:{':'.join(filter(None, time.groups()[1:]))}", kind="time")
    if based := _BASED.fullmatch(reading.text):
        base = based.group(2) or based.group(3)
        base = str(_BASES.get(base, base))
        if base.isdigit() and all(int(digit, 16) < int(base) for digit in based.group(1).lstrip("+-")):
            return replace(reading, label=f"{based.group(1).lstrip('+')}_{base}", kind="base")
    if (words := _WORDS.fullmatch(text)) and len(text) > 3:
        return replace(reading, label=words.group().casefold(), kind="words")
    return reading


def _times_power(match: re.Match[str]) -> str:
    return f"{match.group(1)} \\times 10^{{{int(match.group(2))}}}"


def _written_out(match: re.Match[str]) -> str:
    """E notation as a decimal number, where that is of a readable length."""
    exponent = int(match.group(2))
    if abs(exponent) > 30:
        return match.group()
    whole, _, decimals = match.group(1).partition(".")
    digits, point = whole + decimals, len(whole) + exponent
    digits = digits.rjust(len(digits) + max(0, 1 - point), "0").ljust(max(point, len(digits)), "0")
    point = max(point, 1)
    return (digits[:point].lstrip("0") or "0") + (f".{digits[point:]}" if digits[point:] else "")


def _as_fraction(match: re.Match[str]) -> str:
    r"""``0.1\overline{6}`` as the fraction it is."""
    whole, fixed, block = match.group(1) or "0", match.group(2), match.group(3) or match.group(4)
    nines = (10 ** len(block) - 1) * 10 ** len(fixed)
    return f"\\frac{{{int(whole + fixed + block) - int(whole + fixed)}}}{{{nines}}}"
