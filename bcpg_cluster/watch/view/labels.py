"""Labels of steps that a person gave by hand: a JSONL file, one line a sample, which `judge-eval` and `calibrate` read.

A line is an entry of ``prompts.labelled_steps`` (``id``, ``problem``, ``steps``, ``labels`` with ``null`` where there is none, the
gold ``answer``) and, beside it, what the run says of these steps: ``tokens`` (a count a step), ``scores`` and ``judges`` (by judge,
its raw scores and its labels). Lines of other runs in the same file stay as they are.
"""

from __future__ import annotations

import fcntl
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bcpg_cluster.errors import DataError
from bcpg_cluster.records import SampleId
from bcpg_cluster.store.whole_files import make_parents, write_whole
from bcpg_cluster.watch.view.as_json import to_json_line
from bcpg_cluster.watch.view.sample_records import ByHand, SampleView

_RULE = "a file of hand labels holds JSON lines that `bcpg-cluster view` wrote"
MOST_NOTE = 2000
"""Characters of a note; a longer one is cut."""


@dataclass(frozen=True, slots=True)
class HandLabel:
    """One label: 1 for a right step, 0 for a wrong one, ``None`` to take it back; and why, in the person's words."""

    id: SampleId
    step: int
    label: int | None
    note: str = ""


@dataclass(frozen=True, slots=True)
class HandStep:
    """A step with a person's label beside one judge's word.

    Attributes:
        score: P(step is right); ``None`` where the judge gave none.
        said: the judge's own label; ``None`` for one that scores, and where it gave none.
        label: the person's.
    """

    score: float | None
    said: int | None
    label: int
    num_tokens: int
    is_last: bool


class LabelFile:
    """The labels of one run in a file. Of two on one step the later counts; the file is always whole.

    Several may write one file: each reads it again before it writes, and they take turns at a hidden file beside it.

    Raises:
        DataError: the file is there and is something else.
    """

    def __init__(self, path: Path, run: str) -> None:
        self.path, self._run = path, run
        self._lines = _lines(path)

    def of(self, id_: SampleId, steps: Sequence[str]) -> dict[int, ByHand]:
        """By step, what a person said of it; nothing where the labels are of other steps (the round was cut again since).

        Args:
            steps: the texts of the sample's steps as they are now.
        """
        entry = self._lines.get(self._name(id_))
        if entry is None or entry["steps"] != list(steps):
            return {}
        notes = _notes(entry)
        return {
            index: ByHand(label, notes.get(str(index), ""))
            for index, label in enumerate(entry["labels"])
            if label is not None
        }

    @property
    def num_labels(self) -> int:
        """Labels of this run."""
        entries = (entry for name, entry in self._lines.items() if name.startswith(f"{self._run}/"))
        return sum(label is not None for entry in entries for label in entry["labels"])

    def put(self, given: HandLabel, view: SampleView) -> None:
        """Take a label in and write the file. A step keeps its note until it gets another or its label is taken back.

        Labels of the sample's steps as they were before the round was cut again give way.

        Args:
            view: the sample it is about.

        Raises:
            DataError: the sample has no such step, the label is none of 0, 1 and ``None``, or the file has become something else.
        """
        if not 0 <= given.step < len(view.steps) or given.label not in (0, 1, None):
            raise DataError(
                f"label {given.label!r} for step {given.step!r} of {view.prompt_id} sample {view.sample}, which has "
                f"{len(view.steps)} steps",
                rule="a label is 0, 1 or null, and its step is one of the sample's, from 0",
                remedy="label a step that the page shows",
            )
        name = self._name(given.id)
        entry = _entry(name, self._run, view)
        make_parents(self.path)
        with _turn(self.path):
            lines = _lines(self.path)
            before = lines.get(name)
            if before is not None and before["steps"] == entry["steps"]:
                entry["labels"], entry["notes"] = [*before["labels"]], _notes(before)
            entry["labels"][given.step] = given.label
            if given.label is None:
                entry["notes"].pop(str(given.step), None)
            elif given.note:
                entry["notes"][str(given.step)] = given.note[:MOST_NOTE]
            lines[name] = entry
            if all(label is None for label in entry["labels"]):
                del lines[name]
            write_whole(self.path, b"".join(map(to_json_line, lines.values())))
        self._lines = lines

    def _name(self, id_: SampleId) -> str:
        return f"{self._run}/{id_.round}/{id_.prompt_id}/{id_.sample}"


@contextmanager
def _turn(path: Path) -> Iterator[None]:
    """Those that write the file wait for one another. The hidden file stays: one that goes would be locked by two at once."""
    with path.with_name(f".{path.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _entry(name: str, run: str, view: SampleView) -> dict[str, Any]:
    """A line without a label yet."""
    judges = [verdict.judge for verdict in view.steps[0].verdicts]
    by_judge = {judge: [step.verdicts[place] for step in view.steps] for place, judge in enumerate(judges)}
    return {
        "id": name,
        "problem": view.question,
        "steps": [step.text for step in view.steps],
        "labels": [None] * len(view.steps),
        "answer": view.gold,
        "run": run,
        "round": view.round,
        "prompt_id": view.prompt_id,
        "sample": view.sample,
        "tokens": [step.end - step.start for step in view.steps],
        "scores": {judge: [verdict.score for verdict in said] for judge, said in by_judge.items()},
        "judges": {judge: [verdict.label for verdict in said] for judge, said in by_judge.items()},
        "notes": {},
    }


def is_hand_labelled(entry: Any) -> bool:
    """Whether a line is one of these, and no other file of labels."""
    if not isinstance(entry, dict) or not isinstance(entry.get("id"), str) or not isinstance(entry.get("steps"), list):
        return False
    number = len(entry["steps"])

    def are(values: Any, fits: Callable[[Any], bool]) -> bool:
        return isinstance(values, list) and len(values) == number and all(map(fits, values))

    by_judge = entry.get("scores"), entry.get("judges")
    return (
        are(entry["steps"], lambda text: isinstance(text, str))
        and are(entry.get("labels"), _is_label)
        and are(entry.get("tokens"), lambda count: type(count) is int and count >= 1)
        and all(isinstance(of, dict) for of in by_judge)
        and all(are(scores, _is_score) for scores in entry["scores"].values())
        and all(are(labels, _is_label) for labels in entry["judges"].values())
    )


def _is_label(value: Any) -> bool:
    return value is None or (type(value) is int and value in (0, 1))


def _is_score(value: Any) -> bool:
    return value is None or (type(value) in (int, float) and 0 <= value <= 1)


def is_hand_labelled_line(line: str) -> bool:
    """The same of a line's text."""
    try:
        return is_hand_labelled(json.loads(line))
    except ValueError:
        return False


def hand_steps(entry: dict[str, Any], judge: str) -> list[HandStep]:
    """The labelled steps of a line beside one judge's word; none where that judge did not judge the sample."""
    num_steps = len(entry["steps"])
    if judge not in entry["scores"] and judge not in entry["judges"]:
        return []
    scores, said = (entry[key].get(judge, [None] * num_steps) for key in ("scores", "judges"))
    return [
        HandStep(
            score, None if score is not None else said[index], label, entry["tokens"][index], index == num_steps - 1
        )
        for index, (score, label) in enumerate(zip(scores, entry["labels"], strict=True))
        if label is not None
    ]


def _notes(entry: dict[str, Any]) -> dict[str, str]:
    notes = entry.get("notes")
    return dict(notes) if isinstance(notes, dict) else {}


def _lines(path: Path) -> dict[str, dict[str, Any]]:
    return {str(entry["id"]): entry for entry in _entries(path)}


def _entries(path: Path) -> list[dict[str, Any]]:
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return []
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"{path} cannot be read: {error}", rule=_RULE, remedy="name another file with --labels"
        ) from None
    entries = []
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        if not is_hand_labelled_line(line):
            raise DataError(
                f"{path}, line {number}, is not a line of hand labels: {line[:80]}",
                rule=_RULE,
                remedy="name another file with --labels, or correct the line",
            )
        entries.append(json.loads(line))
    return entries
