"""What a step of an embedded task really is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class StepTruth:
    """What a step really is.

    Attributes:
        is_correct: whether the step is right, by the rule that was asked for.
        error_type: ``none``; ``calculation`` (right operands, wrong result); ``propagated`` (rightly worked out from an
            earlier wrong value); ``inconsistent_with_earlier`` (operands that belong neither to the question nor to the line
            before); ``no_content`` (nothing of the task's format).
    """

    is_correct: bool
    error_type: str


def truth_of_lines(lines: Sequence[StepTruth], *, is_local: bool) -> StepTruth:
    """The truth of a step from that of its lines: the last one's; under the rule ``local`` that of the first wrong one, if any."""
    last = lines[-1] if lines else StepTruth(False, "no_content")
    wrong = (truth for truth in lines if not truth.is_correct)
    return next(wrong, last) if is_local else last
