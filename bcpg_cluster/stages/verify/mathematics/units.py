"""Units of measure: which a word names, and how many of one are another. What is no known unit (apples) is ``None``."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction


@dataclass(frozen=True, slots=True)
class Unit:
    """``factor`` times the base unit of ``dimension``, such as 1/100 of a length for centimetres."""

    dimension: str
    factor: Fraction


def _table(dimension: str, **names: str) -> dict[str, Unit]:
    """Words of one dimension: ``x1_100="cm|厘米"`` says that the words mean 1/100 of the base unit."""
    units = {}
    for factor, words in names.items():
        for word in words.split("|"):
            units[word] = Unit(dimension, Fraction(factor.removeprefix("x").replace("_", "/")))
    return units


# Symbols keep their case (m is no M); words do not.
_SYMBOLS = {
    **_table("length", x1_1000="mm|毫米", x1_100="cm|厘米", x1_10="dm|分米", x1="m|米", x1000="km|公里|千米"),
    **_table("length", x127_5000="in", x381_1250="ft", x1143_1250="yd", x201168_125="mi"),
    **_table("mass", x1_1000000="mg|毫克", x1_1000="g|gm|克", x1="kg|千克|公斤", x1000="t|吨"),
    **_table("imperial mass", x1_16="oz", x1="lb|lbs"),
    **_table("time", x1_1000="ms", x1="s|sec|secs|秒", x60="min|mins|分钟", x3600="h|hr|hrs|小时", x86400="天"),
    **_table("volume", x1_1000="mL|ml|毫升", x1="L|l|升"),
    **_table("angle", x1="°"),
    **_table("celsius", x1="°C"),
    **_table("fahrenheit", x1="°F"),
    **_table("kelvin", x1="K"),
    **_table("dollar", x1="\\$|USD|US\\$|美元", x1_100="¢"),
    **_table("euro", x1="€|EUR|欧元"),
    **_table("pound", x1="£|GBP|英镑"),
    **_table("yen", x1="JPY|円|日元"),
    **_table("yuan", x1="CNY|RMB|元|人民币|块"),
    **_table("yen or yuan", x1="¥"),
    **_table("rupee", x1="₹|INR|Rs|Rs."),
    **_table("won", x1="₩|KRW"),
    **_table("rouble", x1="₽|RUB"),
    **_table("energy", x1="J", x1000="kJ"),
    **_table("power", x1="W", x1000="kW"),
    **_table("force", x1="N", x1000="kN"),
    **_table("voltage", x1="V"),
    **_table("current", x1="A", x1_1000="mA"),
    **_table("frequency", x1="Hz", x1000="kHz", x1000000="MHz"),
    **_table("amount", x1="mol"),
    **_table("speed", x1397_3125="mph", x5_18="kmh|kph|kmph"),
    **_table("before noon", x1="am|AM|a.m."),
    **_table("after noon", x1="pm|PM|p.m."),
}
_WORDS = {
    **_table("length", x1_1000="millimeter|millimetre", x1_100="centimeter|centimetre", x1="meter|metre"),
    **_table("length", x1000="kilometer|kilometre", x127_5000="inch", x381_1250="foot|feet", x1143_1250="yard"),
    **_table("length", x201168_125="mile"),
    **_table("mass", x1_1000000="milligram", x1_1000="gram|gramme", x1="kilogram|kilo", x1000="tonne"),
    **_table("imperial mass", x1_16="ounce"),
    **_table("time", x1="second", x60="minute", x3600="hour", x86400="day", x604800="week"),
    **_table("long time", x1="month", x12="year|yr", x1200="century"),
    **_table("volume", x1_1000="milliliter|millilitre", x1="liter|litre"),
    **_table("imperial volume", x1="gallon", x1_4="quart", x1_8="pint"),
    **_table("area", x10000="hectare"),
    **_table("angle", x1="degree|deg"),
    **_table("radian", x1="radian|rad"),
    **_table("dollar", x1="dollar|buck", x1_100="cent"),
    **_table("euro", x1="euro"),
    **_table("yuan", x1="yuan"),
    **_table("yen", x1="yen"),
    **_table("rupee", x1="rupee"),
    **_table("won", x1="won"),
    **_table("rouble", x1="rouble|ruble"),
    **_table("celsius", x1="celsius"),
    **_table("fahrenheit", x1="fahrenheit"),
    **_table("energy", x1="joule"),
    **_table("power", x1="watt"),
    **_table("force", x1="newton"),
    **_table("voltage", x1="volt"),
    **_table("current", x1="ampere|amp"),
    **_table("frequency", x1="hertz"),
    **_table("amount", x1="mole"),
}
_DERIVED = {
    "平方毫米": "mm^2", "平方厘米": "cm^2", "平方米": "m^2", "平方公里": "km^2", "平方千米": "km^2", "立方厘米": "cm^3",
    "立方米": "m^3", "cc": "cm^3", "度": "°",
    "degrees Celsius": "°C", "degrees Fahrenheit": "°F", "degree Celsius": "°C", "degree Fahrenheit": "°F",
}  # fmt: skip
_SQUARE = re.compile(
    r"(?:square|sq\.?|squared)\s+(?P<before>\S+)|(?P<after>\S+)\s+squared|(?P<power>\S+?)\s*\^\s*\{?2\}?"
)
_CUBE = re.compile(r"(?:cubic|cu\.?)\s+(?P<before>\S+)|(?P<after>\S+)\s+cubed|(?P<power>\S+?)\s*\^\s*\{?3\}?")
_PER = re.compile(r"\s*/\s*|\s+per\s+")


def read_unit(words: str) -> Unit | None:
    """The unit that some words name: ``km``, ``square meters``, ``cm^2``, ``miles per hour``; ``None`` for any others."""
    words = " ".join(words.split()).strip(" .,")
    if words in _DERIVED:
        return read_unit(_DERIVED[words])
    above, *below = _PER.split(words, maxsplit=1)
    if below:
        numerator, denominator = read_unit(above), read_unit(below[0])
        if numerator is None or denominator is None:
            return None
        if (numerator.dimension, denominator.dimension) == ("length", "time"):
            return Unit("speed", numerator.factor / denominator.factor)
        return Unit(f"{numerator.dimension}/{denominator.dimension}", numerator.factor / denominator.factor)
    for power, pattern in ((2, _SQUARE), (3, _CUBE)):
        if match := pattern.fullmatch(words):
            return _powered(read_unit(next(filter(None, match.groups()))), power)
    return _single(words)


def is_symbol(words: str) -> bool:
    """Whether a unit is written as one letter, which might be a variable as well."""
    return len(words.strip()) == 1 and words.strip().isascii() and words.strip().isalpha()


def _single(word: str) -> Unit | None:
    if word in _SYMBOLS:
        return _SYMBOLS[word]
    word = word.lower()
    for singular in (word, word.removesuffix("s"), word.removesuffix("es"), word.removesuffix("ies") + "y"):
        if singular in _WORDS:
            return _WORDS[singular]
    return None


def _powered(unit: Unit | None, power: int) -> Unit | None:
    if unit is None or unit.dimension != "length":
        return None
    # a litre is a cubic decimetre
    if power == 3:
        return Unit("volume", unit.factor**3 * 1000)
    return Unit("area", unit.factor**2)
