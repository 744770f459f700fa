"""What a step of an embedded task really is."""

from __future__ import annotations

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
