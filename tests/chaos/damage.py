"""Damage one file of a run, run the same command again, and say how that ended. For drills over every file of a run.

    undisturbed = contents_of(finished)                     # what every run of this config has to come to
    for file in files_of(source):
        for kind in KINDS:
            outcome = damage_and_resume(source, scratch, file, kind, config, rounds, undisturbed)

Nothing here starts an engine: runs are driven in this process, on fakes.
"""

from __future__ import annotations

import io
import re
import shlex
import shutil
from collections.abc import Mapping
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from bcpg_cluster.config.run import Config
from bcpg_cluster.errors import BcpgError, RunDirectoryError, UserError
from bcpg_cluster.run.entry import run_rounds
from bcpg_cluster.run.soundness.check import check_run
from bcpg_cluster.run.soundness.faults import Fate
from bcpg_cluster.run.soundness.mend import mend_run
from bcpg_cluster.store.layout import LOCK, MANIFEST
from bcpg_cluster.store.manifest import ManifestState, read_manifest
from bcpg_cluster.store.shards import find_damaged
from bcpg_cluster_cli.app import app
from tests.reports import what_counts

Kind = Literal["flipped", "truncated", "deleted"]
KINDS: Final[tuple[Kind, ...]] = ("flipped", "truncated", "deleted")


@dataclass(frozen=True, slots=True)
class Contents:
    """What has to be equal: shards' checksums, snapshots' digests, reports without times."""

    shards: Mapping[tuple[int, str, int], str]
    snapshots: Mapping[int, Mapping[str, str]]
    reports: Mapping[int, Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Outcome:
    """How it ended.

    Attributes:
        is_named: whether ``verify`` named the file before anything was run.
        steps: what was done until it ended: ``iterate``, ``mend``, in order, with what each said if it refused.
        is_equal: whether tables, snapshots and reports are those of the undisturbed run.
        damaged: files of accepted shards that are damaged at the end.
        named_after: the files that ``verify`` names at the end, but those that nothing needs.
    """

    file: str
    kind: Kind
    is_named: bool
    steps: tuple[str, ...]
    is_equal: bool
    damaged: tuple[str, ...]
    named_after: tuple[str, ...]

    @property
    def is_good(self) -> bool:
        """Equal to the undisturbed run, and nothing damaged is left."""
        return self.is_equal and not self.damaged and not self.named_after


def files_of(run_dir: Path) -> list[str]:
    """Every file of a run but its lock, relative to it."""
    return sorted(str(path.relative_to(run_dir)) for path in run_dir.rglob("*") if path.is_file() and path.name != LOCK)


def damage(path: Path, kind: Kind, *, at: float = 0.5) -> None:
    """Flip the lowest bit of a byte, cut the file or delete it; ``at`` says where, as a share of its length."""
    if kind == "deleted":
        path.unlink()
        return
    content = bytearray(path.read_bytes())
    place = min(int(len(content) * at), len(content) - 1)
    if kind == "flipped" and content:
        content[place] ^= 1
    path.write_bytes(bytes(content if kind == "flipped" else content[: max(place, 0)]))


def interrupt(run_dir: Path, num_lines: int) -> None:
    """Make of a finished run the one that was killed after so many lines of its manifest; files no line names go."""
    manifest = run_dir / MANIFEST
    manifest.write_bytes(b"".join(manifest.read_bytes().splitlines(keepends=True)[:num_lines]))
    state = read_manifest(run_dir)
    kept = {receipt.path for accepted in state.shards.values() for receipt in accepted.values()}
    for path in (run_dir / "rounds").rglob("*.parquet"):
        if str(path.relative_to(run_dir)) not in kept:
            path.unlink()
    for path in (run_dir / "snapshots").glob("*"):
        if f"snapshots/{path.name}" not in {record.path for record in state.snapshots.values()}:
            shutil.rmtree(path)
    for path in (run_dir / "rounds").glob("*/report.json"):
        if int(path.parent.name) not in state.reports:
            path.unlink()


def contents_of(run_dir: Path) -> Contents:
    """What of a run has to be equal."""
    return _contents(read_manifest(run_dir))


def _contents(state: ManifestState) -> Contents:
    return Contents(
        {
            (round_, table, shard): receipt.checksum
            for (round_, table), accepted in state.shards.items()
            for shard, receipt in accepted.items()
        },
        {version: record.digests for version, record in state.snapshots.items()},
        {round_: what_counts(report, faults=False) for round_, report in state.reports.items()},
    )


def damage_and_resume(
    source: Path, scratch: Path, file: str, kind: Kind, config: Config, rounds: int, undisturbed: Contents
) -> Outcome:
    """Copy a run, damage a file, run the same command again. Where it refuses or leaves damage, do what ``verify`` says: mend, then
    the commands that it names; each once, and the same command after it.

    Args:
        source: the run, finished or interrupted; it is only read.
        scratch: a directory for the copy, which is made anew.
        file: relative to the run.
        undisturbed: what the run comes to when nothing is damaged.
    """
    shutil.rmtree(scratch, ignore_errors=True)
    shutil.copytree(source, scratch)
    damage(scratch / file, kind)
    is_named = any(file == path or file.startswith(f"{path}/") for path in _named(scratch, with_unneeded=True))
    steps = [_iterate(config, rounds, scratch)]
    if steps[-1] != "iterate" or _named(scratch, with_unneeded=False):
        steps += [_mend(scratch), _iterate(config, rounds, scratch)]
    if steps[-1] != "iterate":  # the last remedy of all: another directory
        scratch.rename(scratch.with_name(f"{scratch.name}.refused"))
        steps.append(f"elsewhere: {_iterate(config, rounds, scratch)}")
        shutil.rmtree(scratch.with_name(f"{scratch.name}.refused"))
    for command in _commands(scratch):
        steps += [command, _stage(command), _iterate(config, rounds, scratch)]
    state = read_manifest(scratch)
    receipts = [receipt for accepted in state.shards.values() for receipt in accepted.values()]
    damaged = tuple(error.path for error in find_damaged(scratch, receipts))
    return Outcome(
        file,
        kind,
        is_named,
        tuple(steps),
        _contents(state) == undisturbed,
        damaged,
        tuple(_named(scratch, with_unneeded=False)),
    )


def _named(run_dir: Path, *, with_unneeded: bool) -> list[str]:
    """What ``verify`` names; damage that nothing needs mended is left out or not."""
    try:
        faults = check_run(run_dir).faults
    except RunDirectoryError:
        return [MANIFEST]
    return [fault.path for fault in faults if with_unneeded or fault.fate is not Fate.UNUSED]


def _mend(run_dir: Path) -> str:
    try:
        mend_run(run_dir)
    except RunDirectoryError as error:
        return f"mend refused: {error.problem} | {error.remedy}"
    return "mend"


def _commands(run_dir: Path) -> list[str]:
    """What ``verify`` says to run for what only that brings back."""
    faults = check_run(run_dir).of(Fate.LOST)
    return sorted(
        {found[1] for fault in faults if (found := re.search(r"`bcpg-cluster (stage [^`]*)`", fault.follows))}
    )


def _stage(command: str) -> str:
    try:
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            app([*shlex.split(command), "--inline", "--json"], standalone_mode=False)
    except BcpgError as error:
        return f"stage failed: {error}"
    return "stage"


def _iterate(config: Config, rounds: int, run_dir: Path) -> str:
    try:
        run_rounds(config, rounds, run_dir, inline=True)
    except UserError as error:
        return f"iterate refused: {error.problem} | {error.remedy}"
    except BcpgError as error:
        return f"iterate failed: {type(error).__name__}: {error}"
    return "iterate"
