"""The strip of a response that is read by itself: the letters that the run page has for its steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from bcpg_cluster.config.run import Config
from bcpg_cluster.records import Step, Verdict
from bcpg_cluster.store.rows import WeightedRow
from bcpg_cluster.watch.view.samples import LETTER_WORDS, step_letters


def step_strip(
    steps: Sequence[Step], said: Mapping[str, Sequence[Verdict]], row: WeightedRow | None, config: Config
) -> str:
    """One letter a step, as in ``SampleSummary.strip``.

    Args:
        said: by judge, a verdict a step; judges that have not come to the response are left out.
        row: the response's own; ``None`` for a rival, which has no weights.
    """
    known = {name: said.get(name) for name in config.judges}
    return step_letters(steps, known, None if row is None else row.mined, config)


def state_words(letter: str, step: Step, row: WeightedRow) -> str:
    """The letter's word, and how many of the step's tokens are mined where that is not all or none as the word has it."""
    word, num_mined = LETTER_WORDS[letter], sum(row.mined[step.start : step.end])
    if letter == "m" and num_mined < step.end - step.start:
        return f"mined {num_mined} of {step.end - step.start}"
    return f"{word}, mined" if letter != "m" and num_mined else word
