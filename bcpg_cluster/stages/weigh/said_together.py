"""What voters said of the same steps: beside one another, and beside the truth.

What each said is kept as a column over the steps of a shard, and columns are compared whole. So a step costs as much as there
are judges, not as there are pairs of them.
"""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence, Set
from itertools import combinations

import numpy as np

from bcpg_cluster.records import Step
from bcpg_cluster.stages.weigh.counts import CONSENSUS, PairCell, QualityCell, Said, WeighCounts

_SAID: tuple[Said, ...] = ("wrong", "right", "none")  # by code
_CODE: Mapping[int | None, int] = {0: 0, 1: 1, None: 2}
_NOT_ASKED = 3
_NUM_CODES = 4


class SaidTogether:
    """The votes of a shard, last steps left out.

    Args:
        voters: in their order, without the consensus.
        measures: whose labels are the truth.
    """

    def __init__(self, voters: Sequence[str], measures: Sequence[str]) -> None:
        self._voters = tuple(voters)
        self._said = {name: array("b") for name in (*voters, CONSENSUS)}
        self._known = {name: array("b") for name in measures}
        self._num_tokens = array("q")

    def add(
        self,
        cut: Sequence[Step],
        labels: Mapping[str, Sequence[int | None]],
        truths: Mapping[str, Sequence[int | None]],
        not_asked: Set[tuple[str, int]],
    ) -> None:
        """Keep the labels of one response.

        Args:
            cut: its steps; the last one is never mined, so it is not counted.
            labels: by voter and ``CONSENSUS``, a label a step.
            truths: likewise by measure.
            not_asked: voters with the steps they were not asked about: these say nothing of how good a voter is.
        """
        self._num_tokens.extend(step.end - step.start for step in cut[:-1])
        for name, column in self._known.items():
            column.extend(_CODE[label] for label in truths[name][:-1])
        for name, column in self._said.items():
            start = len(column)
            column.extend(_CODE[label] for label in labels[name][:-1])
            for judge, step in not_asked:
                if judge == name and step < len(cut) - 1:
                    column[start + step] = _NOT_ASKED

    def count_into(self, counts: WeighCounts) -> None:
        """Add every pair of voters, and every voter and the consensus beside each measure."""
        said = {name: np.frombuffer(column, np.int8) for name, column in self._said.items()}
        num_tokens = np.frombuffer(self._num_tokens, np.int64)
        for first, second in combinations(self._voters, 2):
            for one, other, number in _cells(said[first], said[second], np.ones_like(num_tokens)):
                counts.pairs[PairCell(first, second, one, other)] += number
        for measure, column in self._known.items():
            known = np.frombuffer(column, np.int8)
            for name, of_voter in said.items():
                for truth, one, number in _cells(known, of_voter, np.ones_like(num_tokens)):
                    counts.quality[QualityCell(name, measure, truth, one, "steps")] += number
                for truth, one, number in _cells(known, of_voter, num_tokens):
                    counts.quality[QualityCell(name, measure, truth, one, "tokens")] += number


def _cells(
    first: np.ndarray[tuple[int], np.dtype[np.int8]],
    second: np.ndarray[tuple[int], np.dtype[np.int8]],
    amounts: np.ndarray[tuple[int], np.dtype[np.int64]],
) -> list[tuple[Said, Said, int]]:
    """What was said in either column, with the amounts of the steps; only what occurred, of steps that both were asked about."""
    both = first.astype(np.int64) * _NUM_CODES + second  # [steps]
    occurred = np.bincount(both, minlength=_NUM_CODES**2)
    added_up = np.bincount(both, weights=amounts, minlength=_NUM_CODES**2)
    return [
        (_SAID[one], _SAID[other], int(added_up[one * _NUM_CODES + other]))
        for one in range(_NOT_ASKED)
        for other in range(_NOT_ASKED)
        if occurred[one * _NUM_CODES + other]
    ]
