"""Which judges that were not asked about a step have to be asked after all, since settings have changed (``judges.*.after``)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from bcpg_cluster.records import Verdict, VerdictStatus
from bcpg_cluster.stages.weigh.consensus import Consensus

Votes = Mapping[str, Sequence[Verdict]]
"""By judge, a verdict for every step of one response."""


def judges_to_ask(decided: Consensus, measures: Votes) -> dict[int, list[str]]:
    """By step that may be mined, the judges whose answer would decide it, or is the truth, and who were not asked.

    Empty where the verdicts are good for the settings by which the voters ``decided``.
    """
    found = {step: list(judges) for step, judges in decided.unasked.items()}
    for judge, said in measures.items():
        for step, verdict in enumerate(said):
            if verdict.status is VerdictStatus.NOT_ASKED:
                found.setdefault(step, []).append(judge)
    last = len(decided.labels) - 1
    return {step: judges for step, judges in sorted(found.items()) if step != last}


def not_asked(votes: Votes) -> frozenset[tuple[str, int]]:
    """The judges with the steps they were not asked about."""
    return frozenset(
        (judge, step)
        for judge, said in votes.items()
        for step, verdict in enumerate(said)
        if verdict.status is VerdictStatus.NOT_ASKED
    )
