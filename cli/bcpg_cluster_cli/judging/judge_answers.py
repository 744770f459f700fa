"""Asking a judge about many cases, with every answer on disk as soon as it is there: a stopped run resumes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from bcpg_cluster.errors import DataError, EngineError
from bcpg_cluster.records import ErrorType, VerdictStatus
from bcpg_cluster.stages.judge.protocol import Judge, JudgeCase, Judgement
from bcpg_cluster.store.whole_files import write_whole

_ASK_AGAIN = (VerdictStatus.ENGINE_LOST, VerdictStatus.TIMEOUT)  # nothing that the judge said


def ask_judge(
    judge: Judge, name: str, cases: Sequence[JudgeCase], path: Path, batch: int, advance: Callable[[int], None]
) -> tuple[list[tuple[Judgement, ...]], int]:
    """The answers to all cases, and how many of them were asked about now: the others are in ``path``, of this very version.

    A case is its problem, steps and gold answer. One on which the judge was lost or ran out of time is asked about again.

    Args:
        name: the judge's, for errors.
        path: JSON lines, added to; torn last lines are dropped.
        batch: cases in one call of the judge, after which the answers are on disk.
        advance: told how many more cases are done.

    Raises:
        EngineError: the judge failed, or answered for another number of cases or steps.
        DataError: ``path`` holds something else.
    """
    version = judge.version
    kept = _kept(path, version)
    missing = [case for key, case in {_key(case): case for case in cases}.items() if key not in kept]
    advance(len(cases) - len(missing))
    with path.open("a", encoding="utf-8") as file:
        for start in range(0, len(missing), batch):
            part = missing[start : start + batch]
            answers = judge.judge(part).judgements
            if len(answers) != len(part):
                raise EngineError(f"judge {name!r} answered {len(answers)} of {len(part)} cases")
            for case, said in zip(part, answers, strict=True):
                if len(said) != len(case.steps):
                    raise EngineError(f"judge {name!r} gave {len(said)} verdicts on {len(case.steps)} steps")
                kept[_key(case)] = said
                file.write(json.dumps(_line(case, version, said)) + "\n")
            file.flush()
            advance(len(part))
    return [kept[_key(case)] for case in cases], len(missing)


def _kept(path: Path, version: str) -> dict[str, tuple[Judgement, ...]]:
    """What a judge of this version has answered; steps on which it was lost are to be asked about again."""
    kept: dict[str, tuple[Judgement, ...]] = {}
    if not path.is_file():
        return kept
    text = path.read_text(encoding="utf-8")
    if text and not text.endswith("\n"):  # torn by a crash: the last line is asked about again
        text = text[: text.rfind("\n") + 1]
        write_whole(path, text.encode())
    for line in text.split("\n"):
        if not line:
            continue
        try:
            key, of_version, said = _read_line(line)
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(
                f"{path} has an invalid line ({error})",
                rule="only judge-eval writes its answers",
                remedy="remove the file to ask the judge again, or give another --output",
            ) from None
        if of_version == version and not any(judgement.status in _ASK_AGAIN for judgement in said):
            kept[key] = said
    return kept


def _read_line(line: str) -> tuple[str, str, tuple[Judgement, ...]]:
    row = json.loads(line)
    said = tuple(
        Judgement(VerdictStatus(status), label, score, None if error is None else ErrorType(error))
        for status, label, score, error in row["steps"]
    )
    return row["case"], row["version"], said


def _key(case: JudgeCase) -> str:
    return hashlib.sha256(json.dumps([case.problem, case.steps, case.gold]).encode()).hexdigest()


def _line(case: JudgeCase, version: str, said: Sequence[Judgement]) -> dict[str, Any]:
    return {
        "case": _key(case),
        "version": version,
        "steps": [[str(j.status), j.label, j.score, j.error_type and str(j.error_type)] for j in said],
        "raw": list(dict.fromkeys(j.raw for j in said if j.raw)),
    }
