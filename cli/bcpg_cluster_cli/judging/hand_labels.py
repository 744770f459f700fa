"""Labels that a person gave in `bcpg-cluster view`, beside the scores of the judge that is calibrated."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from bcpg_cluster.errors import ConfigError, DataError
from bcpg_cluster.watch.report.calibration import LabelledStep
from bcpg_cluster.watch.view.labels import HandStep, hand_steps, is_hand_labelled_line


@dataclass(frozen=True, slots=True)
class HandLabelled:
    """What a person labelled.

    Attributes:
        steps: those that the judge scored.
        num_unscored: steps of which it said nothing.
        num_last: steps that end their responses and are never mined.
        has_labels: the judge gave labels, so it has no threshold.
    """

    steps: list[LabelledStep]
    num_unscored: int
    num_last: int
    has_labels: bool


def read_hand_labels(path: Path, judge: str) -> HandLabelled | None:
    """The labelled steps of a file that `view` wrote; ``None`` for another file, or none.

    Raises:
        ConfigError: the judge did not judge these steps.
        DataError: a line that is none.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return None
    # not splitlines: JSON strings may hold U+2028 and the like
    lines = [(number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    if not lines or not is_hand_labelled_line(lines[0][1]):
        return None
    found = [step for number, line in lines for step in _steps(line, judge, f"{path}, line {number}")]
    counted = [step for step in found if not step.is_last]
    return HandLabelled(
        [LabelledStep(step.score, bool(step.label), step.num_tokens) for step in counted if step.score is not None],
        sum(step.score is None for step in counted),
        len(found) - len(counted),
        any(step.said is not None for step in found),
    )


def _steps(line: str, judge: str, where: str) -> list[HandStep]:
    if not is_hand_labelled_line(line):
        raise DataError(
            f"{where}, is not a line of hand labels: {line[:80]}",
            rule="a file that `bcpg-cluster view` wrote holds nothing else",
            remedy="correct the line, or take it out",
        )
    entry = json.loads(line)
    if judge not in entry["scores"]:
        raise ConfigError(
            f"{where}, has nothing from judge {judge!r}",
            rule="a threshold is chosen from the judge's own scores of the labelled steps",
            remedy=f"one of {', '.join(entry['scores']) or 'none: these steps were not judged'}",
        )
    return hand_steps(entry, judge)
