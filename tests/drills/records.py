"""What a drill is, and what came of it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

Blow = Literal[
    "kill",
    "stop",
    "stop and continue",
    "short cut",
    "long cut",
    "cut off",
    "filled",
    "lost file",
    "flipped byte",
    "cut file",
    "failed write",
]


@dataclass(frozen=True, slots=True)
class Moment:
    """When a blow falls: in ``round``, once ``stage`` has delivered ``part`` (from 0 to 1) of its shards; of half a second in
    ``train`` and ``push``, which have none.
    """

    round: int
    stage: str
    part: float


@dataclass(frozen=True, slots=True)
class Drill:
    """One blow at one target of one run.

    Attributes:
        target: a pool (one of its members is hit), ``driver``, ``raylet`` or ``gcs``; the link of a host; Ray's object store; a
            file; a durable operation by its number.
        moment: ``None`` where a run at rest is damaged.
    """

    kind: Literal["process", "link", "store", "file", "operation"]
    target: str
    blow: Blow
    moment: Moment | None = None

    def __str__(self) -> str:
        if self.moment is None:
            return f"{self.blow}: {self.target}"
        return (
            f"{self.blow}: {self.target} in {self.moment.stage} of round {self.moment.round} at {self.moment.part:.0%}"
        )


class Outcome(StrEnum):
    """How a run ended that was hit."""

    UNHURT = "unhurt"  # nothing depended on it, or it was over
    REPAIRED = "repaired"  # the same command mended it, and went on
    RESUMED = "resumed"  # the command ended with an error; run again, it ended well
    REFUSED = "refused, remedy true"  # the command refused; what its error says to do mended it
    BROKEN = "broken"  # neither; or rows are lost, twice there, or invented


@dataclass(frozen=True, slots=True)
class Difference:
    """Rows of the tables that count, against an undisturbed run's."""

    lost: int = 0
    duplicated: int = 0
    invented: int = 0

    @property
    def is_none(self) -> bool:
        """Whether the two runs hold the same."""
        return not (self.lost or self.duplicated or self.invented)


@dataclass(frozen=True, slots=True)
class Result:
    """What came of a drill.

    Attributes:
        silence_s: the longest time without a new line in the manifest, from the blow to the end of that command; ``None``
            for damage to a run at rest.
        words: the end of what the commands printed, where the outcome is not as it should be.
    """

    drill: Drill
    outcome: Outcome
    difference: Difference
    silence_s: float | None = None
    words: str = ""
