"""Answers that a pattern finds and that are equal as text or as numbers. Standard library only."""

from __future__ import annotations

import re
from fractions import Fraction

from bcpg_cluster.errors import ConfigError, DataError
from bcpg_cluster.records import OutcomeStatus, StopReason
from bcpg_cluster.stages.verify.protocol import Verification, answer_part, check_not_empty, without_answer

_UNSIGNED = r"(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)(?:\.[0-9]*)?|\.[0-9]+"
_NUMBER = re.compile(rf"([+-]?)({_UNSIGNED})(?:/([+-]?)({_UNSIGNED}))?")
_MAX_DIGITS = 1000


def read_number(text: str) -> Fraction | None:
    """Read ``18``, ``18.0``, ``036/2``, ``1,234.5``, ``-.5``, ``$18.`` exactly; ``None`` for anything else."""
    match = _NUMBER.fullmatch(text.strip().lstrip("$").rstrip(".,;:!"))
    if match is None or len(text) > _MAX_DIGITS:
        return None
    sign, above, sign_below, below = match.groups()
    value = Fraction(above.replace(",", ""))
    if below is not None:
        divisor = Fraction(below.replace(",", ""))
        if divisor == 0:
            return None
        value /= -divisor if sign_below == "-" else divisor
    return -value if sign == "-" else value


class ExactVerifier:
    """The last match of a pattern is the answer.

    Only text after the last ``</think>`` counts. In a response that was cut off, a match that reaches the very end is
    not taken for an answer: more of it may have been to come.
    """

    def __init__(self, answer_pattern: str, numeric: bool) -> None:
        r"""Take a pattern with one group, such as ``answer (\S+)``; ``numeric`` compares numbers by value.

        Raises:
            ConfigError: the pattern is not a regular expression with exactly one group.
        """
        try:
            self._pattern = re.compile(answer_pattern)
        except re.error as error:
            raise _pattern_error(answer_pattern, str(error)) from None
        if self._pattern.groups != 1:
            raise _pattern_error(answer_pattern, f"has {self._pattern.groups} groups")
        self._numeric = numeric

    def verify(self, response: str, gold: str, stop_reason: StopReason) -> Verification:
        """See :class:`bcpg_cluster.stages.verify.protocol.Verifier`."""
        if stop_reason is StopReason.ABORTED:
            return Verification(OutcomeStatus.ENGINE_LOST, None)
        part = answer_part(response)
        last = None
        for match in self._pattern.finditer(part or ""):
            if match.group(1) and not (stop_reason is StopReason.LENGTH and match.end(1) == match.endpos):
                last = match.group(1)
        if last is None:
            return without_answer(stop_reason)
        return Verification(OutcomeStatus.VERIFIED, float(self._is_equal(last, gold)), last)

    def check_gold(self, gold: str) -> None:
        """See :class:`bcpg_cluster.stages.verify.protocol.Verifier`."""
        check_not_empty(gold)
        if self._numeric and read_number(gold) is None:
            raise DataError(
                f"the gold answer {gold!r} is not a number",
                rule="numeric: true compares integers, decimals and fractions",
                remedy="correct the answer, or set numeric: false to compare as text",
            )

    def close(self) -> None:
        """See :class:`bcpg_cluster.stages.verify.protocol.Verifier`."""

    def _is_equal(self, answer: str, gold: str) -> bool:
        if self._numeric:
            said, wanted = read_number(answer), read_number(gold)
            if said is not None and wanted is not None:
                return said == wanted
        return answer.strip() == gold.strip()


def _pattern_error(pattern: str, problem: str) -> ConfigError:
    return ConfigError(
        f"the answer pattern {pattern!r} does not work: {problem}",
        rule="a Python regular expression with exactly one group, which holds the answer",
        remedy=r"e.g. 'answer (\S+)'; write (?:...) for groups that are not the answer",
    )
