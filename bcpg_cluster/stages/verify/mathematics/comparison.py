"""Expressions compared by math-verify, with numbers compared by our own rule (``numbers.py``). Imported in the child alone.

math-verify 0.9 takes numbers for equal that agree to 6 or 15 decimals, so all small ones are: 1/2**98 and 1/2**99, two
constants of physics. Its comparison of two expressions calls itself for the members of sets, tuples and intervals, so the
rule has to be laid inside it: ``lay_rule`` does.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import Any

import sympy
from latex2sympy2_extended import NormalizationConfig
from math_verify import ExprExtractionConfig, LatexExtractionConfig, grader, parse, verify

from bcpg_cluster.stages.verify.mathematics.numbers import MOST_APART, MOST_APART_RELATIVE

# Both sides come through notation.py, so all that is left to math-verify are commands. Its `malformed_operators` misreads
# TeX (\frac123 becomes 1/23), its `units` strips variables (3t becomes 3).
_NORMAL = NormalizationConfig(
    basic_latex=True, units=False, malformed_operators=False, nits=False, boxed="all", equations=False
)
_FROM_ANSWER = (LatexExtractionConfig(boxed_match_priority=0, normalization_config=_NORMAL), ExprExtractionConfig())
_DIGITS = 60  # of irrational numbers; they are the same where 45 agree
_SAME_DIGITS = sympy.Rational(1, 10**45)
_MAX_POWER_DIGITS = 20_000  # of a power that is worked out
_PERCENT = sympy.UnevaluatedExpr(sympy.Rational(1, 100))


@dataclass(frozen=True, slots=True)
class Compared:
    """How a comparison came out; ``is_parsed`` says whether the answer is an expression at all."""

    is_equal: bool
    is_parsed: bool
    why: str


@lru_cache(maxsize=4096)
def parsed(text: str) -> tuple[Any, ...]:
    """The expressions of one answer, and its text last. Raises whatever sympy and the LaTeX parser raise."""
    return tuple(parse(f"\\boxed{{{text}}}", _FROM_ANSWER, parsing_timeout=None, raise_on_error=True))


def expressions(text: str) -> list[Any]:
    """What :func:`parsed` finds but for texts; empty where nothing can be parsed."""
    try:
        return [item for item in parsed(text) if not isinstance(item, str)]
    except MemoryError:
        raise
    except Exception:  # sympy raises anything for an answer that is no expression
        return []


def last_expression(response: str) -> str | None:
    """The last expression of a text without a box, as it stands there; ``None`` without one."""
    try:
        found = list(parse(response, _FROM_ANSWER, parsing_timeout=None, raise_on_error=True))
    except MemoryError:
        raise
    except Exception:
        return None
    text = next((item for item in found if isinstance(item, str)), "")
    is_percent = any(_percent_of(item) is not None for item in found if not isinstance(item, str))
    return (text + "\\%" if is_percent and "%" not in text else text) or None


def compare(gold: str, said: str) -> Compared:
    """Whether two answers in LaTeX are equal. ``gold`` can be parsed."""
    wanted, found = expressions(gold), expressions(said)
    if not found:
        is_equal = bool(said.strip()) and gold.strip() == said.strip()
        return Compared(is_equal, False, "the same text" if is_equal else "the answer is no expression")
    if gold == said:
        return Compared(True, True, "the same text")
    problem = ""
    for ours in wanted:
        for theirs in found:
            if _is_too_large(ours) or _is_too_large(theirs):
                problem = "a power too large to be worked out"
                if ours == theirs:
                    return Compared(True, True, "the same expression")
                continue
            try:
                if verify(ours, theirs, allow_set_relation_comp=True, timeout_seconds=None, raise_on_error=True):
                    return Compared(True, True, "equal expressions")
            except MemoryError:
                raise
            except Exception as error:  # a division by zero, sets of what has no order, ...: it is not the gold answer
                problem = f"they cannot be compared ({type(error).__name__})"
    return Compared(False, True, problem or "different expressions")


def lay_rule() -> None:
    """Have math-verify compare numbers by our rule, wherever in an expression they stand."""
    grader.sympy_expr_eq = _by_rule(grader.sympy_expr_eq)
    grader.sympy_numeric_eq = _by_rule(grader.sympy_numeric_eq)


def _by_rule(original: Callable[..., bool]) -> Callable[..., bool]:
    def is_equal(gold: Any, said: Any, *arguments: Any, **options: Any) -> bool:
        decided = numbers_equal(gold, said)
        return original(gold, said, *arguments, **options) if decided is None else decided

    return is_equal


def numbers_equal(gold: Any, said: Any) -> bool | None:
    """Whether two numbers are the same; ``None`` where one of the two is no number."""
    if not _is_number(gold) or not _is_number(said):
        return None
    percents = _percent_of(gold), _percent_of(said)
    if percents != (None, None):  # 9% is 9, since the question may have asked for the percentage
        raw = [value if part is None else part for value, part in zip((gold, said), percents, strict=True)]
        if all(isinstance(value, sympy.Integer) for value in raw) and raw[0] == raw[1]:
            return True
    ours, theirs = gold.doit(), said.doit()
    if not (ours.is_finite and theirs.is_finite):
        return bool(ours == theirs) and ours is not sympy.nan and ours is not sympy.zoo
    if isinstance(ours, sympy.Rational) and isinstance(theirs, sympy.Rational):
        return bool(ours == theirs)
    return _are_near(ours, theirs, may_be_rounded=ours.has(sympy.Float) or theirs.has(sympy.Float))


def _are_near(ours: Any, theirs: Any, *, may_be_rounded: bool) -> bool | None:
    """The rule of ``numbers.is_close`` for what has infinitely many digits; ``None`` where they cannot be worked out."""
    digits = 30 if may_be_rounded else _DIGITS
    values = [_exact_floats(value).evalf(digits) for value in (ours, theirs)]
    if not all((value.is_number and value.is_comparable) or value.is_complex for value in values):
        return None
    sizes = [abs(value).evalf(digits) for value in values]
    apart = abs(values[0] - values[1]).evalf(digits)
    if not (apart.is_Float or apart.is_Rational):
        return None
    size = max(sizes)
    if may_be_rounded:
        limit = min(_rational(MOST_APART), _rational(MOST_APART_RELATIVE) * size)
        return bool(apart <= limit)
    return bool(apart <= _SAME_DIGITS * size)


def _exact_floats(expression: Any) -> Any:
    """Decimals as the fractions they were written as: sympy's own have 15 digits."""
    return expression.xreplace({f: sympy.Rational(str(f)) for f in expression.atoms(sympy.Float)})


def _rational(fraction: Fraction) -> Any:
    return sympy.Rational(fraction.numerator, fraction.denominator)


def _is_number(value: Any) -> bool:
    return isinstance(value, sympy.Expr) and bool(value.is_number) and not value.free_symbols


def _percent_of(value: Any) -> Any | None:
    """The number before a percent sign; ``None`` without one."""
    is_percent = isinstance(value, sympy.Mul) and len(value.args) == 2 and value.args[1] == _PERCENT
    return value.args[0] if is_percent else None


def _is_too_large(expression: Any) -> bool:
    """Whether working it out would take for ever: a power, or factorial, of more digits than anybody writes."""
    if not isinstance(expression, sympy.Basic):
        return False
    for part in sympy.preorder_traversal(expression):
        if isinstance(part, sympy.Pow) and part.is_number and _num_digits(part) > _MAX_POWER_DIGITS:
            return True
        if isinstance(part, sympy.factorial) and part.is_number and _num_digits(part.args[0]) > 4:
            return True
    return False


def _num_digits(expression: Any, depth: int = 0) -> float:
    """About how many digits a number has, without working it out."""
    if depth > 20:
        return float("inf")
    if isinstance(expression, sympy.Rational):
        return max(len(str(abs(expression.p))), len(str(expression.q))) if abs(expression.p) < 10**4000 else 4000.0
    if isinstance(expression, sympy.Pow):
        exponent = expression.exp
        digits = _num_digits(exponent, depth + 1)
        if digits > 9:
            return float("inf")
        try:
            size = abs(float(exponent))
        except (TypeError, ValueError, OverflowError):
            return 0.0
        return max(1.0, _num_digits(expression.base, depth + 1)) * max(1.0, size)
    return max((_num_digits(part, depth + 1) for part in getattr(expression, "args", ())), default=1.0)
