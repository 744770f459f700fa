"""A run under way is hit once, and what comes of it is compared with an undisturbed one."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from bcpg_cluster.stages.graph import data_stages, evaluation_stages
from bcpg_cluster.store.layout import MANIFEST
from bcpg_cluster.store.manifest import ManifestState, read_manifest
from tests.drills.compare_runs import compare_runs
from tests.drills.records import Difference, Drill, Moment, Outcome, Result
from tests.drills.small_run import NUM_SHARDS, SmallRun, last_words

_LIMIT_S = 240.0
_TABLES = {
    stage.name: stage.output
    for stage in (*data_stages(dict.fromkeys(("llm", "second", "prm", "truth"), "")), *evaluation_stages())
}
_WITHOUT_SHARDS_S = 0.5


@dataclass(frozen=True, slots=True)
class Hit:
    """A blow that is ready to fall.

    Attributes:
        relieve: takes it back; ``None`` where nothing does.
        relieve_after_s: ``None``: when the command has ended.
    """

    fall: Callable[[], object]
    relieve: Callable[[], object] | None = None
    relieve_after_s: float | None = None


Aim = Callable[[Drill, "subprocess.Popen[str]"], Hit | None]
"""Finds what a drill hits of the command under way; ``None`` when it is not there (not yet, or no more)."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where runs are drilled: a Ray that they share (its drivers' option), and an undisturbed run to compare with."""

    run: SmallRun
    where: tuple[str, ...]
    calm: Path
    aim: Aim


def with_calm_run(run: SmallRun, where: tuple[str, ...], calm: Path, aim: Aim) -> Place:
    """A place for these runs, with an undisturbed one made at ``calm``."""
    done = run.run(calm, *where)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return Place(run, where, calm, aim)


def strike(drill: Drill, place: Place, folder: Path) -> Result:
    """Start a run, hit it, and see how it ends; then run it again if it ended with an error."""
    assert drill.moment is not None
    run_dir, printed = folder / "run", folder / "printed.txt"
    with printed.open("w") as file, _started(place.run.command(run_dir, *place.where), place, file) as process:
        has_come = _await(drill.moment, run_dir, process)
        hit = place.aim(drill, process) if has_come else None
        silence_s = None if hit is None else _endure(hit, run_dir, process)
        code = _end(process)
    said = [printed.read_text()]
    if code == 0:
        outcome = Outcome.UNHURT if hit is None else Outcome.REPAIRED
        return _judged(drill, outcome, run_dir, place, silence_s, said)
    if hit is None or code is None:  # it failed by itself, or hung
        return _judged(drill, Outcome.BROKEN, run_dir, place, silence_s, said)
    done = place.run.run(run_dir, *place.where)
    said.append(done.stdout + done.stderr)
    outcome = Outcome.RESUMED if done.returncode == 0 else Outcome.BROKEN
    return _judged(drill, outcome, run_dir, place, silence_s, said)


def _judged(
    drill: Drill, outcome: Outcome, run_dir: Path, place: Place, silence_s: float | None, said: list[str]
) -> Result:
    difference = Difference() if outcome is Outcome.BROKEN else compare_runs(run_dir, place.calm)
    is_bad = outcome is Outcome.BROKEN or not difference.is_none or any("Traceback" in text for text in said)
    words = last_words(said) if is_bad else ""
    return Result(drill, Outcome.BROKEN if is_bad else outcome, difference, silence_s, words)


@contextmanager
def _started(command: list[str], place: Place, printed: IO[str]) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        command, env=dict(place.run.environment), stdout=printed, stderr=printed, text=True, start_new_session=True
    )
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGCONT)
        if process.poll() is None:
            process.kill()
            process.wait()


def _await(moment: Moment, run_dir: Path, process: subprocess.Popen[str]) -> bool:
    """Wait for the moment. False: the run ended before."""
    has_come = _condition(moment)
    deadline = time.monotonic() + _LIMIT_S
    while process.poll() is None and time.monotonic() < deadline:
        if (run_dir / MANIFEST).exists() and has_come(read_manifest(run_dir)):
            if moment.stage in ("train", "push"):
                time.sleep(moment.part * _WITHOUT_SHARDS_S)
            return process.poll() is None
        time.sleep(0.02)
    return False


def _condition(moment: Moment) -> Callable[[ManifestState], bool]:
    if moment.stage == "train":
        return lambda state: (moment.round, "weighted") in state.sealed
    if moment.stage == "push":
        return lambda state: moment.round in state.snapshots
    table = _TABLES[moment.stage]
    return lambda state: (
        len(state.receipts(moment.round, table)) >= moment.part * NUM_SHARDS and state.created is not None
    )


def _endure(hit: Hit, run_dir: Path, process: subprocess.Popen[str]) -> float:
    """Let it fall, and wait for the end of the command; the longest time without a new line in the manifest."""
    hit.fall()
    path = run_dir / MANIFEST
    start = since = time.monotonic()
    size, longest, relieve = path.stat().st_size, 0.0, hit.relieve
    try:
        while process.poll() is None and time.monotonic() - start < _LIMIT_S:
            if relieve and hit.relieve_after_s is not None and time.monotonic() - start > hit.relieve_after_s:
                relieve()
                relieve = None
            if (now := path.stat().st_size) != size:
                size, since = now, time.monotonic()
            longest = max(longest, time.monotonic() - since)
            time.sleep(0.05)
    finally:
        if relieve:
            relieve()
    return longest


def _end(process: subprocess.Popen[str]) -> int | None:
    """The exit code; ``None`` where the command did not end by itself."""
    try:
        return process.wait(_LIMIT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        return None
