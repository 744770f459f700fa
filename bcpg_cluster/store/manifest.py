"""The manifest: an append-only journal that says what counts. One writer, any number of readers. The writer's threads take turns:
a training has one of its own while the run's thread works with the pools (``run.pipeline``).

A line is one JSON event and is on disk before anything relies on it. Replaying the lines gives the state; resuming a run
is nothing but asking that state what is missing. Every line carries a checksum (:mod:`bcpg_cluster.store.journals.lines`), and
every replay checks it; a seal is compared with the shards before it.

A crash leaves a torn *last* line, one without its line end (also the zeros that a power cut leaves in place of one), which is
dropped. Any other line that does not fit is an error, a whole last one too: it may have been on disk and relied on before it was
altered, and the difference cannot be seen. ``store.journals.mending`` cuts such a journal back, which is always safe: what the
lines behind said is done again. Where the lines are kept, and who may add to them, is :mod:`bcpg_cluster.store.journal`'s business.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from bcpg_cluster.errors import BcpgError, DamagedManifestError, RunDirectoryError, StoreError
from bcpg_cluster.records import Receipt, StepCheckpoint
from bcpg_cluster.store.faults import FaultEvent, FaultKind, FaultLines
from bcpg_cluster.store.journal import journal_lines, journal_place, open_journal
from bcpg_cluster.store.journals.lines import Damage, DamagedLineError, DamageKind, describe, signed_lines
from bcpg_cluster.store.journals.lost import LostShard
from bcpg_cluster.store.journals.replay import Replay, replay
from bcpg_cluster.store.journals.seals import SealedTable, receipts_digest
from bcpg_cluster.store.journals.state import RECEIPT_FIELDS
from bcpg_cluster.store.journals.state import ManifestState as ManifestState
from bcpg_cluster.store.journals.state import SnapshotRecord as SnapshotRecord
from bcpg_cluster.store.made_with import MadeWith
from bcpg_cluster.store.path import RunPath
from bcpg_cluster.store.reports import PromptDigest, PushFacts, RoundReport

MANIFEST_VERSION = 1


def read_manifest(run_dir: RunPath, lines: Iterable[bytes] | None = None) -> ManifestState:
    """The state of a run directory as it stands; an empty state when there is no manifest.

    Args:
        lines: of its journal, where they were read already.

    Raises:
        DamagedManifestError: a line is not what was written.
        RunDirectoryError: the manifest was written by a newer version, or cannot be read.
    """
    return _undamaged(run_dir, journal_lines(run_dir) if lines is None else lines)[0]


def replay_manifest(run_dir: RunPath, lines: Iterable[bytes]) -> tuple[ManifestState, Replay]:
    """The state up to the first line that is not what was written, and how far that is.

    Raises:
        RunDirectoryError: the manifest was written by a newer version.
    """
    state, place = ManifestState(), journal_place(run_dir)
    return state, replay(lines, lambda event: _take(state, event, place))


def _undamaged(run_dir: RunPath, lines: Iterable[bytes]) -> tuple[ManifestState, Replay]:
    state, found = replay_manifest(run_dir, lines)
    if found.damages:
        raise damaged_error(run_dir, state, found.damages[0])
    return state, found


def _take(state: ManifestState, event: dict[str, Any], place: RunPath) -> None:
    """Apply an event of a journal, once it is known to fit what came before."""
    if event["event"] == "created" and event["manifest_version"] > MANIFEST_VERSION:
        raise RunDirectoryError(
            f"{place} was made by a newer version (manifest {event['manifest_version']})",
            rule=f"this program reads manifests up to version {MANIFEST_VERSION}",
            remedy="use the newer bcpg-cluster, or another --run-dir",
        )
    if event["event"] == "sealed":
        sealed = SealedTable.read(event)
        why = sealed.what_is_wrong(state.receipts(sealed.round, sealed.table))
        if why is not None:
            raise DamagedLineError(DamageKind.SEAL, f"{describe(event)} {why}")
    state.apply(event)


def is_mendable(state: ManifestState, damage: Damage) -> bool:
    """Whether the lines before a damage can be relied on, and say which run it is."""
    return state.created is not None and damage.kind is not DamageKind.UNTOLD


def damaged_error(run_dir: RunPath, state: ManifestState, damage: Damage) -> DamagedManifestError:
    """The error for a journal that cannot be believed from a line on; ``state`` is up to there."""
    mend = (
        f"`bcpg-cluster verify --run-dir {run_dir} --mend` cuts it back to line {damage.line - 1}, keeps the damaged one "
        "beside it, and what is cut off is done again"
    )
    return DamagedManifestError(
        f"{journal_place(run_dir)}, line {damage.line}: {damage.what}",
        rule="only bcpg-cluster writes a manifest, and a crash can tear only its last line",
        remedy=f"{mend}; or put back a copy of the manifest"
        if is_mendable(state, damage)
        else "put back a copy of the manifest, or give another --run-dir: no line before that one can be relied on",
        line=damage.line,
        kind=damage.kind.value,
    )


class Manifest:
    """The one writer of a run's journal. Holds the run's lock while open; use as a context manager.

    Args:
        take_over: see :func:`bcpg_cluster.store.journal.open_journal`.
    """

    def __init__(self, run_dir: RunPath, *, take_over: bool = False) -> None:
        self.run_dir = run_dir
        self._turn = threading.RLock()
        self._journal = open_journal(run_dir, take_over=take_over)
        try:
            self.state, found = _undamaged(run_dir, self._journal.lines())
            self._chain = found.chain
            self._journal.begin(found.good)
            self._fault_lines = FaultLines(self.state.faults)
            if self._journal.is_taken_over and self.state.created is not None:
                why, then = "the process that worked on it gave no sign", "what it still does counts no more"
                self.add_fault(FaultEvent(FaultKind.TAKEN_OVER, "the run", why, then))
        except BaseException:
            self._journal.close()
            raise

    def __enter__(self) -> Manifest:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Release the run."""
        try:
            with suppress(
                OSError, BcpgError
            ):  # a full disk, a run that was taken over: what is raised already matters more
                self.write_faults()
        finally:
            self._journal.close()

    def check_held(self) -> None:
        """Before something that cannot be taken back. Raises :class:`StoreError` when another process took the run over."""
        self._journal.check_held()

    def _append(self, event: dict[str, Any]) -> None:
        event = {**event, "time": event.get("time", round(time.time(), 3))}
        with self._turn:
            self._write([event])
            self.state.apply(event)

    def _write(self, events: Iterable[dict[str, Any]]) -> None:
        """Bring events to disk together: a disk (or an object store) takes as long for many lines as for one."""
        lines, chain = signed_lines(self._chain, events)
        self._journal.append(lines)
        self._chain = chain  # a line that was not written has no successor

    def create(self, *, identity: str, name: str, program_version: str) -> None:
        """Mark the directory as a run of this configuration (once)."""
        self._append(
            {
                "event": "created",
                "manifest_version": MANIFEST_VERSION,
                "identity": identity,
                "name": name,
                "program_version": program_version,
            }
        )

    def accept(self, receipt: Receipt) -> bool:
        """Count a shard. False when the shard was already delivered by another attempt: this one changes nothing."""
        return self.accept_all([receipt])[0]

    def accept_all(self, receipts: Sequence[Receipt]) -> list[bool]:
        """Count shards, all in one write; of each, whether it counts (see :meth:`accept`)."""
        with self._turn:
            known: set[tuple[int, str, int]] = set()
            is_new = []
            for receipt in receipts:
                key = receipt.round, receipt.table, receipt.shard
                is_new.append(key not in known and receipt.shard not in self.state.shards.get(key[:2], {}))
                known.add(key)
            counted = [receipt for receipt, counts in zip(receipts, is_new, strict=True) if counts]
            if counted:
                now = round(time.time(), 3)
                self._write(
                    {"event": "shard", **{key: getattr(receipt, key) for key in RECEIPT_FIELDS}, "time": now}
                    for receipt in counted
                )
                for receipt in counted:
                    self.state.add_receipt(receipt)
            return is_new

    def accept_made_of(self, receipts: Sequence[Receipt], inputs: Iterable[Receipt]) -> list[bool]:
        """As :meth:`accept_all`, but none counts unless all that they were made of still does: a shard that was made again since
        may have other content.
        """
        with self._turn:
            if all(self.state.is_current(receipt) for receipt in inputs):
                return self.accept_all(receipts)
            return [False] * len(receipts)

    def seal(self, round_: int, table: str, num_shards: int) -> SealedTable:
        """Close a table.

        Raises:
            StoreError: shards are missing.
        """
        missing = self.state.missing(round_, table, num_shards)
        if missing:
            raise StoreError(f"round {round_}, table {table!r} cannot be sealed: shards {missing} are missing")
        receipts = self.state.receipts(round_, table)
        counts = {"num_shards": num_shards, "num_rows": sum(receipt.num_rows for receipt in receipts)}
        digest = receipts_digest(receipts)
        self._append({"event": "sealed", "round": round_, "table": table, **counts, "receipts": digest})
        return self.state.sealed[round_, table]

    def add_snapshot(self, record: SnapshotRecord) -> None:
        """Count a snapshot that lies complete on disk."""
        facts = {key: getattr(record, key) for key in ("version", "path", "digests", "seconds", "files", "wire")}
        facts |= {"adapters": record.adapters} if record.adapters else {}
        metrics = {} if record.training is None else record.training.plain()
        self._append({"event": "snapshot", **facts, "metrics": metrics})

    def add_step_checkpoint(self, round_: int, checkpoint: StepCheckpoint) -> None:
        """Count a step checkpoint that lies complete on disk; training resumes from no other."""
        facts = {"num_steps": checkpoint.num_steps, "digest": checkpoint.digest}
        self._append({"event": "step_checkpoint", "round": round_, **facts})

    def add_fall_back(self, round_: int, num_steps: int) -> None:
        """Step checkpoints with more steps count no more: some of their files are damaged or not there."""
        self._append({"event": "fell_back", "round": round_, "num_steps": num_steps})

    def add_push(self, version: int, facts: PushFacts) -> None:
        """Note that all rollout engines answer with ``version``, and how that was proven."""
        self._append({"event": "push", "version": version, **facts.plain()})

    def add_report(self, report: RoundReport) -> None:
        """Close a round with its report."""
        self._append({"event": "report", "round": report.round, "report": report.plain()})

    def add_fault(self, fault: FaultEvent) -> None:
        """Note what went wrong and what was done about it. Of many of a sort, a line may stand for several."""
        with self._turn:
            written = self._fault_lines.add(fault)
            if written is not None:
                self._append({"event": "fault", **written.plain()})

    def write_faults(self) -> None:
        """Write the faults that were only counted so far."""
        with self._turn:
            for fault in self._fault_lines.rest():
                self._append({"event": "fault", **fault.plain()})

    def lose(self, lost: LostShard) -> None:
        """Let go of a damaged shard and of its table's seal. The next attempt that is accepted takes its place; where that has
        other content, what was made from the old one goes with it. The file stays on disk.
        """
        self._append({"event": "lost", **lost.plain()})

    def add_import(self, facts: dict[str, Any]) -> None:
        """Note that round 1's responses were made elsewhere, and by whom."""
        self._append({"event": "imported", **facts})

    def add_prompts(self, sets: Mapping[str, PromptDigest], changes: Sequence[str] = ()) -> None:
        """Note the problems that the run works on from here; ``changes`` says what differs from those before."""
        digests = {key: found.plain() for key, found in sets.items()}
        self._append({"event": "prompts", "sets": digests, "changes": [*changes]})

    def add_made_with(self, made_with: MadeWith) -> None:
        """Note programs, machine and files that the run goes through from here."""
        self._append({"event": "made_with", "made_with": made_with.plain()})

    def reopen(self, round_: int, tables: list[str], versions: int, changed: dict[str, Any] | None = None) -> None:
        """Let go of tables of a round, of all later rounds, and of snapshots from ``versions`` on. Files stay on disk.

        Args:
            changed: the configuration to continue with, as ``identity`` and ``config``; in the same event, since results and
                configuration must not part.
        """
        event = {"event": "reopened", "round": round_, "tables": tables, "versions": versions}
        self._append({**event, "changed": changed})

    def reopen_alone(self, round_: int, tables: list[str], changed: dict[str, Any] | None = None) -> None:
        """Let go of tables of a round that no other round reads, and of the round's report: of a measurement, while the next round
        is trained or has been. ``changed`` as in :meth:`reopen`.
        """
        event = {"event": "reopened", "round": round_, "tables": tables, "versions": round_ + 1, "is_alone": True}
        self._append({**event, "changed": changed})
