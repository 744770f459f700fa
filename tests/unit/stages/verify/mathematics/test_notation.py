"""One value, many notations: what is read from an answer."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bcpg_cluster.stages.verify.mathematics.characters import to_latex
from bcpg_cluster.stages.verify.mathematics.macros import brace_pairs, one_spelling, with_braces
from bcpg_cluster.stages.verify.mathematics.notation import plain_text, read_answer, unwrapped
from bcpg_cluster.stages.verify.mathematics.numbers import Number, is_close, is_same, read_number
from bcpg_cluster.stages.verify.mathematics.plain_equality import plainly_equal, same_units
from bcpg_cluster.stages.verify.mathematics.units import Unit, read_unit


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("18", 18),
        ("+18", 18),
        ("-1,234,567", -1234567),
        (".5", Fraction(1, 2)),
        ("18.", 18),
        ("-3/4", Fraction(-3, 4)),
        (r"\frac{-3}{4}", Fraction(-3, 4)),
        (r"-\frac{1}{2}", Fraction(-1, 2)),
        (r"-2\frac{1}{3}", Fraction(-7, 3)),
        (r"2.5 \times 10^{-6}", Fraction(1, 400000)),
        (r"3 \cdot 10^8", 3 * 10**8),
        (r"10^{3}", 1000),
    ],
)
def test_numbers_are_read_exactly(text: str, value: Fraction | int):
    number = read_number(text)
    assert number is not None and number.value == value


@pytest.mark.parametrize(
    "text", ["", "x", "1 2", "2 1/3", "1,23", "5/0", r"\frac{5}{0}", "12:00", "1e5", "10^{9999}", "--1"]
)
def test_what_is_no_number(text: str):
    assert read_number(text) is None


def test_exact_numbers_are_equal_or_not_however_close():
    assert not is_same(Number(Fraction(1, 2**99), True), Number(Fraction(1, 2**98), True))
    assert not is_same(Number(Fraction(10**20), True), Number(Fraction(10**20 + 1), True))


@pytest.mark.parametrize(
    ("ours", "theirs", "expected"),
    [
        ("0.333333", "1/3", True),  # six decimals
        ("0.33333", "1/3", False),
        ("0.0000001", "0.0000002", False),
        ("0.00000012345678", "0.00000012345679", True),  # one part in ten million
        ("1000000.1", "1000000.2", False),
        ("18.0000001", "18", True),
        ("0.0000001", "0", False),
    ],
)
def test_decimals_may_be_rounded(ours: str, theirs: str, expected: bool):
    left, right = read_number(ours), read_number(theirs)
    assert left is not None and right is not None
    assert is_same(left, right) == is_same(right, left) == expected


@given(st.fractions(), st.fractions())
def test_closeness_is_symmetric_and_holds_of_equals(a: Fraction, b: Fraction):
    assert is_close(a, b) == is_close(b, a)
    assert is_close(a, a)


@pytest.mark.parametrize(
    ("text", "braced"),
    [
        (r"\frac12", r"\frac{1}{2}"),
        (r"\frac123", r"\frac{1}{2}3"),  # TeX takes one token
        (r"\frac 59", r"\frac {5}{9}"),
        (r"\frac1{20}", r"\frac{1}{20}"),
        (r"\frac{1}2", r"\frac{1}{2}"),
        (r"\frac\pi2", r"\frac{\pi}{2}"),
        (r"3\sqrt2x", r"3\sqrt{2}x"),
        (r"\sqrt[3]5", r"\sqrt[3]{5}"),
        (r"\frac{\sqrt2}2", r"\frac{\sqrt{2}}{2}"),
        (r"\frac1\sqrt2", r"\frac{1}{\sqrt{2}}"),
        (r"\frac{\frac12}3", r"\frac{\frac{1}{2}}{3}"),
        (r"\binom52", r"\binom{5}{2}"),
        (r"\frac", r"\frac"),
        (r"\frac{1", r"\frac{1"),
        (r"\fraction12", r"\fraction12"),
    ],
)
def test_arguments_get_their_braces(text: str, braced: str):
    assert with_braces(text) == braced
    assert with_braces(braced) == braced


def test_braces_pair_as_tex_pairs_them():
    assert brace_pairs(r"{a{b}\}}{") == {0: 7, 2: 4}


@pytest.mark.parametrize(
    ("text", "spelled"),
    [
        (r"\dfrac{1}{2}", r"\frac{1}{2}"),
        (r"1\,234\,567", "1234567"),
        (r"10,\!080", "10080"),
        (r"1{,}234", "1234"),
        (r"\left(1,2\right]", "(1,2]"),
        (r"\big[1, 2\big)", "[1, 2)"),
        (r"\mathrm{cm}", r"\text{cm}"),
        (r"\varnothing", r"\emptyset"),
        (r"1 \\ 2", r"1 \\ 2"),  # a row of a matrix ends
        (r"\log_28", r"\log_{2}8"),
        (r"\mathbf{x}", "{x}"),
    ],
)
def test_one_spelling_a_command(text: str, spelled: str):
    assert one_spelling(text) == spelled


@pytest.mark.parametrize(
    ("text", "latex"),
    [
        ("１２", "12"),
        ("٣", "3"),
        ("½", r"\frac{1}{2}"),
        ("√2", r"\sqrt{2}"),
        ("√(x+1)", r"\sqrt{x+1}"),
        ("∛5", r"\sqrt[3]{5}"),
        ("√", r"\sqrt "),
        ("x²", "x^{2}"),
        ("10⁻⁶", "10^{-6}"),
        ("a₁₂", "a_{12}"),
        ("−5", "-5"),
        ("5°", r"5^\circ "),
        ("𝟓", "5"),
        ("（1，2）", "(1,2)"),
        ("平", "平"),
    ],
)
def test_characters_of_other_keyboards(text: str, latex: str):
    assert to_latex(text) == latex


@pytest.mark.parametrize(
    ("text", "inside"),
    [
        ("$12$", "12"),
        (r"\(12\)", "12"),
        (r"\boxed{12}.", "12"),
        ("**12**", "12"),
        ("12.", "12"),
        ("12...", "12..."),
        ("Answer: 12", "12"),
        ("$1$ and $2$", "$1$ and $2$"),
        ("$", "$"),
        (" ", ""),
    ],
)
def test_what_stands_around_an_answer(text: str, inside: str):
    assert unwrapped(text) == inside


@pytest.mark.parametrize(
    ("answer", "value"),
    [
        ("3e8", 3 * 10**8),
        ("1e-05", Fraction(1, 10**5)),
        ("2 1/3", Fraction(7, 3)),
        (r"0.1\overline{6}", Fraction(1, 6)),
        ("0.333...", Fraction(1, 3)),
        ("9 (apples)", 9),
        ("€45", 45),
        ("12 345", 12345),
        ("5 million", 5 * 10**6),
        (r"5\text{ million dollars}", 5 * 10**6),
        ("12平方米", 12),
    ],
)
def test_a_value_in_other_words(answer: str, value: Fraction | int):
    number = read_answer(answer)[0].number
    assert number is not None and number.value == value


@pytest.mark.parametrize(
    "answer", ["9 squared", "5 or more", "12 not 13", "2x", "3t", "2 dozen", r"\sin 30^\circ", "3 factorial"]
)
def test_words_that_change_a_value_stay(answer: str):
    assert all(reading.number is None and reading.unit is None for reading in read_answer(answer))


def test_two_meanings_have_two_readings():
    assert [reading.text for reading in read_answer("2e-1")] == [r"2 \times 10^{-1}", "2e-1"]
    assert [(reading.text, reading.unit) for reading in read_answer("5 m")] == [
        ("5", Unit("length", Fraction(1))),
        ("5 m", None),
    ]
    assert len(read_answer("60 cm")) == len(read_answer("18")) == 1


@pytest.mark.parametrize(
    ("words", "dimension", "factor"),
    [
        ("cm", "length", Fraction(1, 100)),
        ("Meters", "length", 1),
        ("inches", "length", Fraction(127, 5000)),
        ("square feet", "area", Fraction(381, 1250) ** 2),
        ("cm^2", "area", Fraction(1, 10**4)),
        ("cm^3", "volume", Fraction(1, 1000)),  # of a litre
        ("km/h", "speed", Fraction(5, 18)),
        ("miles per hour", "speed", Fraction(1397, 3125)),
        ("平方厘米", "area", Fraction(1, 10**4)),
    ],
)
def test_units(words: str, dimension: str, factor: Fraction | int):
    assert read_unit(words) == Unit(dimension, Fraction(factor))


def test_words_that_are_no_unit():
    assert read_unit("apples") is read_unit("") is read_unit("kg squared") is read_unit("apples/h") is None


@pytest.mark.parametrize(
    ("gold", "said", "expected"),
    [
        ("60 cm", "60 m", None),  # None: they cannot be in one unit, or are not plain
        ("60 cm", "60 kg", None),
        ("60 cm", "0.6 m", True),
        ("60 cm", "60", True),
        ("12:00", "12:00", True),
        ("12:30", "5:30", False),
        ("1101_2", "1101_3", False),
        ("1101_2", "1101", True),
        ("1101_2", "13", False),
        ("Monday", r"\text{monday}", True),
        ("Monday", "Tuesday", None),
        ("x", "y", None),
    ],
)
def test_plain_equality(gold: str, said: str, expected: bool | None):
    pair = same_units(read_answer(gold)[0], read_answer(said)[0])
    found = None if pair is None else plainly_equal(*pair)
    assert found is expected or (gold, said, found) == ("60 cm", "60 m", False)


def test_a_response_keeps_its_sentences():
    assert plain_text(r"We have $\frac12$ and 5e-5.") == r"We have $\frac{1}{2}$ and 0.00005."
    assert plain_text("1.5e3 or 12e0 or 1e-400") == "1500 or 12 or 1e-400"


@given(st.text(alphabet=r"\{}()[]$_^., 019ae√½°frcqtboxd", max_size=80))
def test_reading_never_raises(text: str):
    read_answer(text)
    plain_text(text)


@pytest.mark.parametrize(
    "token", ["1", "{", r"\frac", r"\frac{", "1e1 ", "sqrt(", r"\text{a}", "a ", "0.", "1,", "x^(", "[1,", "√"]
)
def test_long_answers_are_read_in_time_that_grows_with_their_length(token: str):
    """A reading that looked back from every character would take minutes here."""
    read_answer((token * 2000)[:2000])
    plain_text((token * 100_000)[:100_000])
