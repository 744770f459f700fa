"""Labelled solutions cut into other steps, and what is known of these: the truth carried over from the file's own steps.

The solution's text is its labelled steps, a blank line between two where neither has white space there. A new step is

* wrong where visible text of it is of a step labelled wrong;
* right where all its visible text is of steps labelled right;
* of unknown truth otherwise.

So a part of a wrong step is wrong, though the mistake itself may be in another part: no label says where in a step it is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise

from bcpg_cluster.prompts.labelled_steps import LabelledSolution
from bcpg_cluster.prompts.step_truth import first_error
from bcpg_cluster.records import Step

Truth = Sequence[int | None]
KnownTruth = Callable[[LabelledSolution], Truth | None]
"""The truth of a solution's steps from another source than its labels; ``None`` where it has none."""


@dataclass(frozen=True, slots=True)
class Recut:
    """A solution in other steps.

    Attributes:
        num_tokens: of every step, as the segmenter counted.
        is_recomputed: its truth is from another source than the file's labels.
    """

    solution: LabelledSolution
    num_tokens: tuple[int, ...]
    is_recomputed: bool = False


def solution_text(steps: Sequence[str]) -> tuple[str, list[int]]:
    """The text of a solution, and the characters at which its labelled steps begin."""
    pieces = [
        step if not step or step[-1].isspace() or following[:1].isspace() else f"{step}\n\n"
        for step, following in pairwise((*steps, ""))
    ]
    if pieces:
        pieces[-1] = steps[-1]
    return "".join(pieces), [0, *accumulate(map(len, pieces))][:-1]


def recut(solution: LabelledSolution, steps: Sequence[Step], known: KnownTruth = lambda _: None) -> Recut:
    """The solution in these steps.

    Args:
        steps: they tile :func:`solution_text`.
        known: asked where every new step begins a line, which is what the tasks that know their truth can read.
    """
    text, begins = solution_text(solution.steps)
    edges = [0, *accumulate(len(step.text) for step in steps)]
    truth: Truth = carried_truth(text, begins, solution.truth, edges)
    new = replace(
        solution,
        steps=tuple(step.text for step in steps),
        truth=tuple(truth),
        first_wrong=first_error(truth),
        unknown_by_reason={},
    )
    begin_lines = all(at == 0 or text[at - 1] == "\n" for at in edges[:-1])
    better = known(new) if begin_lines else None
    if better is not None:
        new = replace(new, truth=tuple(better), first_wrong=first_error(better))
    return Recut(new, tuple(step.end - step.start for step in steps), better is not None)


def carried_truth(text: str, begins: Sequence[int], truth: Truth, edges: Sequence[int]) -> list[int | None]:
    """The truth of ``text[edges[k] : edges[k + 1]]`` for every k, from that of labelled steps which begin at ``begins``."""
    ends = [*begins[1:], len(text)]
    carried: list[int | None] = []
    label = 0
    for start, end in pairwise(edges):
        while label + 1 < len(begins) and ends[label] <= start:
            label += 1
        seen, at = [], label
        while at < len(begins) and begins[at] < end:
            if text[max(start, begins[at]) : min(end, ends[at])].strip():
                seen.append(truth[at])
            at += 1
        carried.append(0 if 0 in seen else 1 if seen and None not in seen else None)
    return carried
