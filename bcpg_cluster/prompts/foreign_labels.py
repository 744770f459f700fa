"""Labelled steps as TRL and PRM800K have them, in this package's words.

TRL's *stepwise supervision* (https://huggingface.co/docs/trl/dataset_formats): ``prompt``, ``completions`` and a boolean a
step in ``labels``. PRM800K (https://github.com/openai/prm800k): ``question.problem``, ``question.ground_truth_answer``, and in
``label.steps`` the ``completions`` tried for each step, rated 1, 0 or -1, with ``chosen_completion`` or ``human_completion``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

UNKNOWN_BY_REASON = "unknown_by_reason"
Unknown = Literal["neutral", "flagged", "unrated", "written_by_hand"]
"""Why a step has no truth: rated 0; flagged, as the labeller could not tell; without a rating; written by the labeller."""

_TRUTH = {1: 1, -1: 0}
_BAD_PROBLEM, _GIVE_UP = "bad_problem", "give_up"


@dataclass(frozen=True, slots=True)
class _Labelled:
    """A step on the path of a labeller: its truth as ours has it, or why it has none."""

    text: Any
    truth: Any
    unknown: Unknown | None


def own_entry(entry: Any) -> Any:
    """An entry of a foreign format as ours has it; any other entry unchanged."""
    if _is_prm800k(entry):
        return _from_prm800k(entry)
    if isinstance(entry, Mapping) and "completions" in entry and "prompt" in entry and "steps" not in entry:
        return {**entry, "problem": entry["prompt"], "steps": entry["completions"]}
    return entry


def left_out_for(entry: Any) -> str | None:
    """Why an entry of PRM800K says nothing of any step; ``None`` where it does, and for every other format.

    ``bad_problem``: the labeller reported the problem as broken. Otherwise no step has a truth: ``give_up``, or what the steps
    lack (:data:`Unknown`; of several reasons the most frequent), or ``no_steps``.
    """
    if not _is_prm800k(entry):
        return None
    reason = entry["label"].get("finish_reason")
    if reason == _BAD_PROBLEM:
        return _BAD_PROBLEM
    path = _path(entry)
    if any(step.unknown is None for step in path):
        return None
    if reason == _GIVE_UP:
        return _GIVE_UP
    unknown = Counter(step.unknown for step in path)
    return str(unknown.most_common(1)[0][0]) if unknown else "no_steps"


def _is_prm800k(entry: Any) -> bool:
    return (
        isinstance(entry, Mapping)
        and isinstance(entry.get("question"), Mapping)
        and isinstance(entry.get("label"), Mapping)
        and isinstance(entry["label"].get("steps"), list)
    )


def _from_prm800k(entry: Mapping[str, Any]) -> dict[str, Any]:
    path = _path(entry)
    own = {
        "problem": entry["question"].get("problem"),
        "answer": entry["question"].get("ground_truth_answer"),
        "steps": [step.text for step in path],
        "labels": [step.truth for step in path],
        UNKNOWN_BY_REASON: dict(Counter(step.unknown for step in path if step.unknown is not None)),
    }
    return own | ({"id": entry["id"]} if "id" in entry else {})


def _path(entry: Mapping[str, Any]) -> list[_Labelled]:
    """The solution that the labeller walked.

    A step without a choice ends it. In phase 2 that is the wrong step on which labelling stopped, often with alternatives rated
    beside it: the solution's own is then the one in ``pre_generated_steps``, or the only one there is.
    """
    written = entry["question"].get("pre_generated_steps") or []
    path: list[_Labelled] = []
    for index, step in enumerate(entry["label"]["steps"]):
        completions = step.get("completions") or []
        chosen, human = step.get("chosen_completion"), step.get("human_completion")
        if chosen is not None:
            path.append(_labelled(completions[chosen]))
        elif human is not None:
            text = human.get("text") if isinstance(human, Mapping) else human
            path.append(_Labelled(text, None, "written_by_hand"))
        else:
            own = _of_solution(completions, written[index] if index < len(written) else None)
            path += [] if own is None else [_labelled(own)]
            break
    return path


def _of_solution(completions: Sequence[Mapping[str, Any]], written: Any) -> Mapping[str, Any] | None:
    """Which of a step's completions the solution itself has; ``None`` where that cannot be said."""
    same = (completion for completion in completions if completion.get("text") == written)
    return completions[0] if len(completions) == 1 else next(same, None)


def _labelled(completion: Mapping[str, Any]) -> _Labelled:
    text, rating = completion.get("text"), completion.get("rating")
    if completion.get("flagged"):
        return _Labelled(text, None, "flagged")
    if rating is None:
        return _Labelled(text, None, "unrated")
    if rating == 0:  # neither right nor wrong
        return _Labelled(text, None, "neutral")
    return _Labelled(text, _TRUTH.get(rating, rating), None)
