"""Blows at the files of a run at rest: every file of a finished and of an interrupted one, flipped, cut off, deleted."""

from __future__ import annotations

import math
import random
import shutil
from collections.abc import Iterator
from pathlib import Path

from bcpg_cluster.config.load import load_config
from bcpg_cluster.errors import BcpgError
from bcpg_cluster.run.entry import run_rounds
from bcpg_cluster.store.layout import MANIFEST
from tests.chaos.damage import KINDS, contents_of, damage_and_resume, files_of, interrupt
from tests.chaos.damage import Outcome as Ending
from tests.drills.compare_runs import compare_runs
from tests.drills.records import Blow, Difference, Drill, Outcome, Result
from tests.drills.small_run import ROUNDS, SmallRun

_BLOWS: dict[str, Blow] = {"flipped": "flipped byte", "truncated": "cut file", "deleted": "lost file"}
_INTERRUPTED_AT = (0.3, 0.7)  # shares of the manifest's lines


def file_drills(run: SmallRun, folder: Path, every: int, seed: int) -> Iterator[Result]:
    """One in ``every`` of them, drawn by the seed."""
    config = load_config(run.config)
    calm = folder / "calm"
    run_rounds(config, ROUNDS, calm, inline=True)
    undisturbed = contents_of(calm)
    scratch = folder / "scratch"
    drills = [
        (name, source, file, kind)
        for name, source in _sources(calm, folder).items()
        for file in files_of(source)
        for kind in KINDS
    ]
    for name, source, file, kind in random.Random(seed).sample(drills, math.ceil(len(drills) / every)):
        ending = damage_and_resume(source, scratch, file, kind, config, ROUNDS, undisturbed)
        yield _result(f"{file} ({name})", _BLOWS[kind], ending, scratch, calm)


def _sources(calm: Path, folder: Path) -> dict[str, Path]:
    found = {"finished": calm}
    lines = (calm / MANIFEST).read_bytes().count(b"\n")
    for share in _INTERRUPTED_AT:
        copy = folder / f"interrupted{share}"
        shutil.copytree(calm, copy)
        interrupt(copy, int(lines * share))
        found[f"interrupted at {share:.0%}"] = copy
    return found


def _result(target: str, blow: Blow, ending: Ending, scratch: Path, calm: Path) -> Result:
    drill = Drill("file", target, blow)
    if not ending.is_good:
        return Result(drill, Outcome.BROKEN, _difference(scratch, calm), words="; ".join(ending.steps))
    if ending.steps != ("iterate",):
        outcome = Outcome.REFUSED
    else:
        outcome = Outcome.REPAIRED if ending.is_named else Outcome.UNHURT
    return Result(drill, outcome, _difference(scratch, calm))


def _difference(scratch: Path, calm: Path) -> Difference:
    try:
        return compare_runs(scratch, calm)
    except BcpgError:  # damage is left, which the outcome says
        return Difference()
