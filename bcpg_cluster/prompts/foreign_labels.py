"""Labelled steps as TRL and PRM800K have them, in this package's words.

TRL's *stepwise supervision* (https://huggingface.co/docs/trl/dataset_formats): ``prompt``, ``completions`` and a boolean a
step in ``labels``. PRM800K (https://github.com/openai/prm800k): ``question.problem``, ``question.ground_truth_answer``, and in
``label.steps`` the ``completions`` tried for each step, rated 1, 0 or -1, with ``chosen_completion`` or ``human_completion``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

NUM_NEUTRAL = "num_neutral"
_TRUTH = {1: 1, 0: None, -1: 0}  # a neutral step is neither right nor wrong


def own_entry(entry: Any) -> Any:
    """An entry of a foreign format as ours has it; any other entry unchanged."""
    if _is_prm800k(entry):
        return _from_prm800k(entry)
    if isinstance(entry, Mapping) and "completions" in entry and "prompt" in entry and "steps" not in entry:
        return {**entry, "problem": entry["prompt"], "steps": entry["completions"]}
    return entry


def has_no_rated_step(entry: Any) -> bool:
    """Whether an entry is PRM800K's and no step on its path was rated, so that it says nothing of any step."""
    return _is_prm800k(entry) and all(rating is None for _, rating in _path(entry["label"]["steps"]))


def _is_prm800k(entry: Any) -> bool:
    return (
        isinstance(entry, Mapping)
        and isinstance(entry.get("question"), Mapping)
        and isinstance(entry.get("label"), Mapping)
        and isinstance(entry["label"].get("steps"), list)
    )


def _from_prm800k(entry: Mapping[str, Any]) -> dict[str, Any]:
    path = _path(entry["label"]["steps"])
    labels = [_TRUTH.get(rating, rating) if rating is not None else None for _, rating in path]
    own = {
        "problem": entry["question"].get("problem"),
        "answer": entry["question"].get("ground_truth_answer"),
        "steps": [text for text, _ in path],
        "labels": labels,
        NUM_NEUTRAL: sum(rating == 0 for _, rating in path),
    }
    return own | ({"id": entry["id"]} if "id" in entry else {})


def _path(steps: list[Any]) -> list[tuple[Any, int | None]]:
    """The solution that the labeller walked: each step's text and rating, ``None`` for one a person wrote or left unrated.

    A step without a choice ends it: its only completion still belongs to it (in phase 2 that is the wrong step on which
    labelling stopped), while of several no one is the solution's.
    """
    path: list[tuple[Any, int | None]] = []
    for step in steps:
        completions = step.get("completions") or []
        chosen = step.get("chosen_completion")
        human = step.get("human_completion")
        if chosen is not None:
            taken = completions[chosen]
        elif human is not None:
            taken = human if isinstance(human, Mapping) else {"text": human}
        elif len(completions) == 1:
            taken = completions[0]
        else:
            break
        path.append((taken.get("text"), taken.get("rating")))
        if chosen is None and human is None:
            break
    return path
