"""Put right what can be, without an engine; the next `iterate` does the rest."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from bcpg_cluster.errors import DamagedShardError
from bcpg_cluster.run.directory import write_config
from bcpg_cluster.run.recovery.lost_shards import lost_shard
from bcpg_cluster.run.soundness.check import check_run, read_subject
from bcpg_cluster.run.soundness.faults import CheckedRun, Fate, Subject
from bcpg_cluster.run.soundness.restore import restore_shards
from bcpg_cluster.run.soundness.shard_faults import accepted
from bcpg_cluster.store.faults import FaultEvent, FaultKind
from bcpg_cluster.store.journal import check_free, journal_place
from bcpg_cluster.store.journals.mending import cut_manifest
from bcpg_cluster.store.layout import CONFIG, report_path
from bcpg_cluster.store.manifest import Manifest
from bcpg_cluster.store.mark import MARK, leave_mark
from bcpg_cluster.store.path import RunPath
from bcpg_cluster.store.shards import find_damaged
from bcpg_cluster.store.whole_files import make_parents, set_aside, write_whole

CUT_OFF = "snapshots-cut-off"


@dataclass(frozen=True, slots=True)
class Mended:
    """What was done.

    Attributes:
        done: sentences, in order.
        after: the run, checked again.
    """

    done: tuple[str, ...]
    after: CheckedRun


def mend_run(run_dir: RunPath) -> Mended:
    """Restore what can be restored, and let go of damaged shards that the next `iterate` makes again. What is damaged is kept
    beside it under another name; nothing is deleted.

    Raises:
        RunDirectoryError: it is no run, was made by a newer version, or another process works on it.
        DamagedManifestError: no line of its manifest is left that says which run it is.
    """
    read_subject(run_dir)  # it is a run of this version
    check_free(run_dir)
    done = _cut(run_dir)
    before = check_run(run_dir)
    if before.faults:
        with Manifest(run_dir) as manifest:
            done += _let_go(manifest, before)
            subject = read_subject(run_dir)
            done += restore_shards(subject, before.of(Fate.RESTORED))
            done += _write_again(subject, before)
    return Mended(tuple(done), check_run(run_dir))


def _cut(run_dir: RunPath) -> list[str]:
    """Cut a damaged manifest back. Snapshots that it no longer names would be cleared away by the next `iterate`: they move."""
    cut = cut_manifest(run_dir)
    if cut is None:
        return []
    kept_as = f"(kept as {cut.kept_as})"
    name = journal_place(run_dir).name
    done = [f"{name}: cut back to line {cut.num_lines}; {cut.num_cut} lines count no more {kept_as}"]
    named = {record.path for record in read_subject(run_dir).state.snapshots.values()}
    if isinstance(run_dir, Path) and (run_dir / "snapshots").is_dir():
        for folder in sorted((run_dir / "snapshots").iterdir()):
            if f"snapshots/{folder.name}" not in named and not folder.name.startswith("."):
                kept = run_dir / CUT_OFF / folder.name
                kept.parent.mkdir(exist_ok=True)
                folder.rename(kept)
                done.append(
                    f"snapshots/{folder.name}: the manifest no longer names it; kept as {CUT_OFF}/{folder.name}"
                )
    return done


def _let_go(manifest: Manifest, before: CheckedRun) -> list[str]:
    """Of shards that the next `iterate` makes again."""
    wanted = {fault.path for fault in before.of(Fate.REMADE)}
    subject = read_subject(manifest.run_dir)
    receipts = {receipt.path: receipt for receipt in accepted(subject) if receipt.path in wanted}
    errors: list[DamagedShardError] = find_damaged(manifest.run_dir, list(receipts.values()))
    done = []
    for error in errors:
        manifest.lose(lost_shard(receipts[error.path], subject.stages, error.what))
        kept = set_aside(manifest.run_dir, error.path)
        then = "let go of by verify --mend; the next iterate makes it again"
        cause = f"{error.path} {error.what}"
        manifest.add_fault(FaultEvent(FaultKind.REMADE, f"table {error.table}", cause, then, round=error.round))
        done.append(f"{error.path}: let go of{_kept(kept)}; the next `iterate` makes it again")
    return done


def _write_again(subject: Subject, before: CheckedRun) -> list[str]:
    paths = {fault.path for fault in before.of(Fate.RESTORED)}
    done = []
    for round_, report in sorted(subject.state.reports.items()):
        path = report_path(round_)
        if path in paths:
            kept = set_aside(subject.run_dir, path)
            make_parents(subject.run_dir / path)
            write_whole(subject.run_dir / path, json.dumps(report.plain(), indent=2).encode())
            done.append(f"{path}: written again from the manifest{_kept(kept)}")
    if MARK in paths:
        kept = set_aside(subject.run_dir, MARK)
        leave_mark(subject.run_dir)
        done.append(f"{MARK}: another was written{_kept(kept)}")
    if CONFIG in paths and subject.config is not None:
        kept = set_aside(subject.run_dir, CONFIG)
        write_config(subject.run_dir, subject.config)
        done.append(f"{CONFIG}: written again from the manifest{_kept(kept)}")
    return done


def _kept(name: str | None) -> str:
    return "" if name is None else f" (the damaged one is kept as {name})"
