"""What can be said of two readings without algebra."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

from bcpg_cluster.stages.verify.mathematics.notation import Reading
from bcpg_cluster.stages.verify.mathematics.numbers import Number, is_same


def same_units(gold: Reading, said: Reading) -> tuple[Reading, Reading] | None:
    """Both in one unit, ``None`` where their units measure different things. An answer without a unit is in the other's."""
    if gold.unit is None or said.unit is None or gold.unit == said.unit:
        return gold, said
    if gold.unit.dimension != said.unit.dimension:
        return None
    return gold, _times(said, said.unit.factor / gold.unit.factor)


def plainly_equal(gold: Reading, said: Reading) -> bool | None:
    """Whether two readings in one unit are equal; ``None`` where only algebra can tell."""
    if gold.number is not None and said.number is not None:
        return is_same(gold.number, said.number)
    if gold.kind == said.kind and gold.kind in ("time", "base"):
        return gold.label == said.label
    if "base" in (gold.kind, said.kind):  # the digits alone will do where the other side says no base
        based, other = (gold, said) if gold.kind == "base" else (said, gold)
        return based.label.partition("_")[0] == other.text.replace(" ", "").upper()
    if gold.kind == said.kind == "words" and gold.label == said.label:
        return True
    if gold.text == said.text and gold.label == said.label and said.text.isalpha():
        return True
    return None


def _times(reading: Reading, factor: Fraction) -> Reading:
    """The same quantity in a unit that is ``1 / factor`` as large."""
    if reading.number is not None:
        number = Number(reading.number.value * factor, reading.number.is_exact)
        return replace(reading, number=number)
    text = f"\\frac{{{factor.numerator}}}{{{factor.denominator}}} \\cdot ({reading.text})"
    return replace(reading, text=text, label="", kind="")
