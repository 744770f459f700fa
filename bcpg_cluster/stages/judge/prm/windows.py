"""Which steps a process reward model sees at once when a response is longer than its context. Pure.

Every step is scored once. The first window takes what fits from the start; every later one shows as much of what comes
before its steps as fits, at least ``context_tokens`` of it where that can be. A step is never scored without the one
right before it in view: where the two do not fit together, the step is not scored at all.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from bcpg_cluster.errors import EngineError
from bcpg_cluster.records import VerdictStatus
from bcpg_cluster.stages.judge.prm.layout import Convention, Rendered
from bcpg_cluster.stages.judge.protocol import JudgeCase, Judgement


@dataclass(frozen=True, slots=True)
class Window:
    """Steps ``first..end-1`` are shown, ``scored..end-1`` of them scored here."""

    first: int
    scored: int
    end: int


@dataclass(frozen=True, slots=True)
class WindowInput:
    """A window of one case, as the model gets it. ``is_whole`` says that it shows the whole response."""

    case: int
    window: Window
    rendered: Rendered
    is_whole: bool


def plan_windows(lengths: Sequence[int], budget: int, context_tokens: int) -> list[Window]:
    """Lay windows over steps of these token counts, ``budget`` tokens of steps each. Steps too long are in none's score."""
    windows: list[Window] = []
    start = 0
    while start < len(lengths):
        first, used = start, lengths[start]
        while (
            first > 0
            and (first == start or used - lengths[start] < context_tokens)  # the one right before, whatever the context
            and used + lengths[first - 1] <= budget
        ):
            first -= 1
            used += lengths[first]
        if used > budget or (start > 0 and first == start):
            start += 1
            continue
        end = start + 1
        while end < len(lengths) and used + lengths[end] <= budget:
            used += lengths[end]
            end += 1
        while first > 0 and used + lengths[first - 1] <= budget:
            first -= 1
            used += lengths[first]
        windows.append(Window(first, start, end))
        start = end
    return windows


def most_windows(num_steps: int) -> int:
    """The most inputs that :func:`window_inputs` makes of a response of at most so many steps.

    A response that fits the context is one input, but how many tokens it has, the model's tokenizer alone knows. In windows,
    each scores a step at least. The first scores two, or the second step is never scored: it needs the first one in view.
    """
    return max(min(num_steps, 1), num_steps - 1)


def window_inputs(
    convention: Convention, cases: Sequence[JudgeCase], capacity: int, context_tokens: int
) -> list[WindowInput]:
    """Everything the model is asked, to score these cases. Steps that are in no window's score cannot be scored.

    Args:
        capacity: the most tokens of one input.
        context_tokens: see :func:`plan_windows`; never more than half the capacity, so that windows go forward.
    """
    inputs: list[WindowInput] = []
    for index, case in enumerate(cases):
        whole = convention.render(case.problem, case.steps) if case.steps else None
        if whole is None:
            continue
        if len(whole.token_ids) <= capacity:
            inputs.append(WindowInput(index, Window(0, 0, len(case.steps)), whole, is_whole=True))
        else:
            inputs += _windows_of(convention, index, case, whole, capacity, min(context_tokens, capacity // 2))
    return inputs


def _windows_of(
    convention: Convention, index: int, case: JudgeCase, whole: Rendered, capacity: int, context_tokens: int
) -> list[WindowInput]:
    """Windows of one case that is longer than ``capacity``."""
    if len(case.steps) == 1:
        return []
    lengths = [0] + [after - before for before, after in zip(whole.positions, whole.positions[1:], strict=False)]
    alone = [convention.render(case.problem, (step,)) for step in case.steps[:2]]
    if alone[0] is None or alone[1] is None:
        return []
    overhead = len(alone[1].token_ids) - lengths[1]  # problem and template, around any steps
    lengths[0] = max(1, len(alone[0].token_ids) - overhead)
    budget = capacity - overhead
    while budget > 0:
        windows = plan_windows(lengths, budget, context_tokens)
        rendered = [convention.render(case.problem, case.steps[window.first : window.end]) for window in windows]
        longest = max((len(one.token_ids) for one in rendered if one is not None), default=0)
        if longest <= capacity:
            return [
                WindowInput(index, window, one, is_whole=False)
                for window, one in zip(windows, rendered, strict=True)
                if one is not None
            ]
        budget -= longest - capacity  # a token more at a seam than in the whole: ask for a little less
    return []


def to_judgements(
    cases: Sequence[JudgeCase], inputs: Sequence[WindowInput], scores: Sequence[Sequence[float]]
) -> tuple[tuple[Judgement, ...], ...]:
    """Bring the windows' scores (P(step is right), one for each step *shown*) back to the cases' steps.

    Steps that no window scored are ``REFUSED``. ``raw`` names the steps in view where that was not the whole response.

    Raises:
        EngineError: another number of scores than steps: nothing of it can be trusted to be the right step's.
    """
    judged = [[Judgement(VerdictStatus.REFUSED)] * len(case.steps) for case in cases]
    for part, of_part in zip(inputs, scores, strict=True):
        window = part.window
        if len(of_part) != window.end - window.first:
            raise EngineError(
                f"the process reward model gave {len(of_part)} scores for {window.end - window.first} steps"
            )
        raw = "" if part.is_whole else f"steps {window.first}-{window.end - 1} in view"
        for step in range(window.scored, window.end):
            judged[part.case][step] = judgement(of_part[step - window.first], raw)
    return tuple(map(tuple, judged))


def judgement(score: float, raw: str = "") -> Judgement:
    """A score as a judgement; what is not a number in [0, 1] is ``UNPARSABLE``, with the number as ``raw``."""
    if math.isfinite(score) and 0.0 <= score <= 1.0:
        return Judgement(VerdictStatus.JUDGED, score=score, raw=raw)
    return Judgement(VerdictStatus.UNPARSABLE, raw=str(score))
