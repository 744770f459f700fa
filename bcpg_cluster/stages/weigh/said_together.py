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
            column.extend(
                _NOT_ASKED if (name, step) in not_asked else _CODE[label]
                for step, label in enumerate(labels[name][:-1])
            )

    def count_into(self, counts: WeighCounts) -> None:
        """Add every pair of voters, and every voter and the consensus beside each measure."""
        said = {name: np.frombuffer(column, np.int8) for name, column in self._said.items()}
        num_tokens = np.frombuffer(self._num_tokens, np.int64)
        for first, second in combinations(self._voters, 2):
            for one, other, steps, _ in _cells(said[first], said[second], num_tokens):
                counts.pairs[PairCell(first, second, one, other)] += steps
        for measure, column in self._known.items():
            known = np.frombuffer(column, np.int8)
            for name, of_voter in said.items():
                for truth, one, steps, tokens in _cells(known, of_voter, num_tokens):
                    counts.quality[QualityCell(name, measure, truth, one, "steps")] += steps
                    counts.quality[QualityCell(name, measure, truth, one, "tokens")] += tokens


def _cells(
    first: np.ndarray[tuple[int], np.dtype[np.int8]],
    second: np.ndarray[tuple[int], np.dtype[np.int8]],
    num_tokens: np.ndarray[tuple[int], np.dtype[np.int64]],
) -> list[tuple[Said, Said, int, int]]:
    """What was said in either column, of how many steps and of how many tokens; only what occurred, of steps that both were asked
    about.
    """
    both = first.astype(np.int64) * _NUM_CODES + second  # [steps]
    steps = np.bincount(both, minlength=_NUM_CODES**2)
    tokens = np.bincount(both, weights=num_tokens, minlength=_NUM_CODES**2)
    return [
        (_SAID[code // _NUM_CODES], _SAID[code % _NUM_CODES], int(steps[code]), int(tokens[code]))
        for code in map(int, np.flatnonzero(steps))
        if _NOT_ASKED not in divmod(code, _NUM_CODES)
    ]
