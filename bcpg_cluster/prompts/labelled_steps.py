"""Solutions with labelled steps, read from files: ProcessBench's format, one label a step, TRL's and PRM800K's.

A file is a JSON array, JSON lines or Parquet. An entry has a ``problem`` (or ``question``), its ``steps`` as a list of
texts, and either

* ``label``: the index of the first wrong step, -1 for none (ProcessBench, arXiv 2412.06559), or
* ``labels``: a label a step, 1 (or true) for right, 0 (or false) for wrong, null where it is unknown;

and perhaps an ``id`` and the gold ``answer``. Other fields are left alone. An entry of TRL's stepwise supervision (``prompt``,
``completions``, ``labels``) or of PRM800K (``question``, ``label``) is read as well (``prompts.foreign_labels``).
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bcpg_cluster.errors import DataError
from bcpg_cluster.prompts.foreign_labels import UNKNOWN_BY_REASON, left_out_for, own_entry
from bcpg_cluster.prompts.step_truth import NO_ERROR, first_error, known_truth
from bcpg_cluster.prompts.table_files import table_rows

_REMEDY = (
    'an entry is {"id": "...", "problem": "...", "steps": ["...", ...], "label": 2}, or with "labels": [1, 1, 0, ...] '
    "in the place of label"
)


@dataclass(frozen=True, slots=True)
class LabelledSolution:
    """A solution with the truth about its steps.

    Attributes:
        solution_id: unique in its file.
        truth: by step 1 for right, 0 for wrong, ``None`` for not known (in ProcessBench all steps after the first wrong one).
        first_wrong: the first wrong step, -1 for none; ``None`` where a step of unknown truth comes before it.
        gold: the gold answer; ``None`` where the file has none.
        unknown_by_reason: of PRM800K, how many steps have no truth, by reason (``foreign_labels.Unknown``).
    """

    solution_id: str
    problem: str
    steps: tuple[str, ...]
    truth: tuple[int | None, ...]
    first_wrong: int | None
    gold: str | None = None
    unknown_by_reason: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class LabelledFile:
    """The solutions of one file, in its order, and how many of its entries say nothing of any step, by reason."""

    solutions: tuple[LabelledSolution, ...]
    left_out: Mapping[str, int] = field(default_factory=dict)

    def unknown_by_reason(self) -> dict[str, int]:
        """How many steps of the solutions have no truth although a person saw them, by reason."""
        total: Counter[str] = Counter()
        for solution in self.solutions:
            total.update(solution.unknown_by_reason)
        return dict(total)


def read_subsets(sources: Sequence[str], limit: int | None = None) -> dict[str, LabelledFile]:
    """Several files, each as a subset: ``NAME=PATH``, or a path, whose file name without its ending is then the name.

    ``limit`` keeps so many of every file, evenly spread over it: ProcessBench's files are sorted, all wrong solutions first.
    What was left out is counted over the whole file.

    Raises:
        DataError: a name that is given twice, or what :func:`read_labelled_file` refuses.
    """
    subsets: dict[str, LabelledFile] = {}
    for source in sources:
        name, named, path = source.partition("=")
        if not named or Path(source).is_file():
            name, path = Path(source).stem, source
        if name in subsets:
            raise DataError(
                f"the subset {name!r} is given twice",
                rule="every file of labelled steps has a name of its own",
                remedy="name one of them: --data NAME=PATH",
            )
        file = read_labelled_file(path)
        number = len(file.solutions)
        kept = min(limit or number, number)
        some = tuple(file.solutions[index * number // kept] for index in range(kept))
        subsets[name] = LabelledFile(some, file.left_out)
    return subsets


def read_labelled_file(path: str) -> LabelledFile:
    """One file. An entry without an id is called by the file's name and its place from 0.

    PRM800K's entries that say nothing of any step are left out and counted (``foreign_labels.left_out_for``).

    Raises:
        DataError: the file is missing, empty or not JSON, an entry is invalid, or an id occurs twice.
    """
    file = Path(path)
    solutions, left_out = [], Counter[str]()
    for index, entry in enumerate(_entries(file)):
        where = f"{path}, entry {index + 1}"
        try:
            reason = left_out_for(entry)
            own = own_entry(entry)
        except (AttributeError, IndexError, TypeError) as error:
            raise _refused(
                f"{where}: not as PRM800K has it ({error})",
                "each of label.steps has completions, and chosen_completion is the place of one of them",
            ) from None
        if reason is None:
            solutions.append(_solution(own, f"{file.stem}-{index}", where))
        else:
            left_out[reason] += 1
    if not solutions:
        but = f": {counted(left_out)} say nothing of any step" if left_out else ""
        raise DataError(
            f"{path} holds no solution{but}", rule="a file of labelled steps has at least one entry", remedy=_REMEDY
        )
    seen: set[str] = set()
    for solution in solutions:
        if solution.solution_id in seen:
            raise DataError(
                f"{path}: id {solution.solution_id!r} occurs twice",
                rule="ids are unique in a file of labelled steps",
                remedy="rename one of the two, or leave all ids out",
            )
        seen.add(solution.solution_id)
    return LabelledFile(tuple(solutions), dict(left_out))


def counted(by_reason: Mapping[str, int]) -> str:
    """Numbers by reason as people read them: ``2 give_up, 1 neutral``."""
    return ", ".join(f"{number} {reason}" for reason, number in sorted(by_reason.items()))


def _entries(file: Path) -> list[Any]:
    """What the file holds, as JSON."""
    if not file.is_file():
        raise DataError(f"{file} does not exist", rule="labelled steps are read from a file", remedy=_REMEDY)
    if file.suffix == ".parquet":
        return [row.content for row in table_rows(file)[1]]
    try:
        text = file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{file} is not UTF-8 ({error})", rule="labelled steps are UTF-8 text", remedy=_REMEDY
        ) from None
    if text.lstrip().startswith("["):
        return list(_parse(text, str(file)))
    # not splitlines: JSON strings may hold U+2028 and the like
    lines = [(number, line) for number, line in enumerate(text.split("\n"), start=1) if line.strip()]
    return [_parse(line, f"{file}, line {number}") for number, line in lines]


def _parse(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise DataError(
            f"{where}: not JSON ({error})",
            rule="labelled steps are a JSON array, or one JSON object a line",
            remedy=_REMEDY,
        ) from None


def _solution(entry: Any, default_id: str, where: str) -> LabelledSolution:
    if not isinstance(entry, dict):
        raise _refused(f"{where}: a {type(entry).__name__}", "an entry is a JSON object")
    problem = entry.get("problem", entry.get("question"))
    if not isinstance(problem, str) or not problem.strip():
        raise _refused(f"{where}: problem is {problem!r}", "an entry has a problem (or question), a text")
    steps = entry.get("steps")
    if not isinstance(steps, list) or not steps or not all(isinstance(step, str) for step in steps):
        raise _refused(f"{where}: steps is {str(steps)[:80]}", "steps is a list of texts, at least one")
    truth = _truth(entry, len(steps), where)
    gold = entry.get("answer")
    return LabelledSolution(
        str(entry.get("id", default_id)),
        problem,
        tuple(steps),
        truth,
        first_error(truth),
        None if gold is None else str(gold),
        dict(entry.get(UNKNOWN_BY_REASON, {})),
    )


def _truth(entry: dict[str, Any], num_steps: int, where: str) -> tuple[int | None, ...]:
    label, labels = entry.get("label"), entry.get("labels")
    if label is None and labels is None:
        raise _refused(f"{where}: neither label nor labels", "an entry says which steps are wrong")
    from_first: tuple[int | None, ...] | None = None
    if label is not None:
        if type(label) is not int or not NO_ERROR <= label < num_steps:
            raise _refused(
                f"{where}: label is {label!r} for {num_steps} steps", "label is a step from 0, or -1 for no wrong step"
            )
        from_first = known_truth(label, num_steps)
    if labels is None:
        assert from_first is not None
        return from_first
    if not isinstance(labels, list) or any(value not in (0, 1, None) for value in labels):
        raise _refused(f"{where}: labels is {str(labels)[:80]}", "labels is a list of 1, 0 or null")
    if len(labels) != num_steps:
        raise _refused(f"{where}: {len(labels)} labels for {num_steps} steps", "there is one label a step")
    truth = tuple(None if value is None else int(value) for value in labels)
    if from_first is not None and first_error(truth) != label:
        raise _refused(f"{where}: label and labels differ", "label is the first step whose labels entry is 0")
    return truth


def _refused(problem: str, rule: str) -> DataError:
    return DataError(problem, rule=rule, remedy=_REMEDY)
