"""What a run's journal says, replayed: what counts, and what is missing."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from bcpg_cluster.records import Receipt, StepCheckpoint
from bcpg_cluster.store.faults import FaultEvent, FaultKind
from bcpg_cluster.store.folded import FoldedReceipts
from bcpg_cluster.store.journals.lost import Losses, LostShard
from bcpg_cluster.store.journals.seals import SealedTable
from bcpg_cluster.store.made_with import MadeWith
from bcpg_cluster.store.reports import PromptDigest, PushFacts, RoundReport, TrainingSummary

RECEIPT_FIELDS = tuple(Receipt.__dataclass_fields__)
_FAULT_KINDS = frozenset(FaultKind)


@dataclass(frozen=True, slots=True)
class SnapshotRecord:
    """A durable set of weights. ``path`` is relative to the run directory; the base (version 0) has none of its own.

    Attributes:
        digests: sha256 of every parameter as it lies on disk, by name.
        training: what made it; ``None`` where a round taught nothing and the weights before were kept.
        files: sha256 of its files that are no weights (config, tokenizer), by name; none in runs made before they were noted.
        wire: digests of every parameter as a push sends it, by name; likewise none in earlier runs.
        adapters: sha256 of every matrix of the adapters that are merged in, by name; none where whole weights were trained.
    """

    version: int
    path: str
    digests: dict[str, str]
    seconds: float
    training: TrainingSummary | None = None
    files: dict[str, str] = field(default_factory=dict)
    wire: dict[str, str] = field(default_factory=dict)
    adapters: dict[str, str] = field(default_factory=dict)


@dataclass
class ManifestState:
    """What the journal says, replayed."""

    created: dict[str, Any] | None = None
    config: dict[str, Any] | None = None  # only where it was changed after the run was made
    shards: dict[tuple[int, str], Mapping[int, Receipt]] = field(
        default_factory=dict
    )  # folded once a round has its report
    sealed: dict[tuple[int, str], SealedTable] = field(default_factory=dict)
    snapshots: dict[int, SnapshotRecord] = field(default_factory=dict)
    step_checkpoints: dict[int, list[StepCheckpoint]] = field(default_factory=dict)  # of rounds in training, in order
    pushes: dict[int, PushFacts] = field(default_factory=dict)
    reports: dict[int, RoundReport] = field(default_factory=dict)
    faults: list[FaultEvent] = field(default_factory=list)
    imports: list[dict[str, Any]] = field(default_factory=list)  # responses made elsewhere, and by whom
    prompts: dict[str, PromptDigest] | None = None  # by config key; none in runs made before they were noted
    prompt_changes: list[dict[str, Any]] = field(default_factory=list)  # taken because the person allowed it
    losses: Losses = field(default_factory=Losses)
    made_with: list[MadeWith] = field(default_factory=list)  # each that differs from the one before; none in old runs

    def apply(self, event: dict[str, Any]) -> None:
        """Take one event in. Unknown kinds are skipped, so that an older program can still read a newer journal's facts."""
        match event["event"]:
            case "created":
                self.created = {key: event[key] for key in ("identity", "name", "program_version")}
            case "shard":
                self.add_receipt(Receipt(*[event[key] for key in RECEIPT_FIELDS]))
            case "sealed":
                table = SealedTable.read(event)
                self.sealed[table.round, table.table] = table
            case "snapshot":
                training = TrainingSummary.read(event["metrics"]) if event["metrics"] else None
                version, path, seconds = event["version"], event["path"], event["seconds"]
                later = {key: event.get(key, {}) for key in ("files", "wire", "adapters")}
                record = SnapshotRecord(version, path, event["digests"], seconds, training, **later)
                self.snapshots.setdefault(record.version, record)
                self.step_checkpoints.pop(record.version, None)
            case "step_checkpoint":
                checkpoint = StepCheckpoint(event["num_steps"], event["digest"])
                self._keep_steps(event["round"], checkpoint.num_steps - 1)
                self.step_checkpoints.setdefault(event["round"], []).append(checkpoint)
            case "fell_back":
                self._keep_steps(event["round"], event["num_steps"])
            case "push":
                facts = {key: value for key, value in event.items() if key not in ("event", "version", "time")}
                self.pushes[event["version"]] = PushFacts.read(facts)
            case "report":
                self.reports[event["round"]] = RoundReport.read(event["report"])
                self._fold(event["round"])
            case "fault" if event["kind"] in _FAULT_KINDS:  # a newer program may have more
                self.faults.append(FaultEvent.read(event))
            case "retry":  # before faults were records
                self.faults.append(FaultEvent(FaultKind.RETRY, event["what"], event["why"], time=event["time"]))
            case "imported":
                self.imports.append(event)
            case "prompts":
                self.prompts = {key: PromptDigest.read(found) for key, found in event["sets"].items()}
                if event["changes"]:
                    self.prompt_changes.append(event)
            case "made_with":
                self.made_with.append(MadeWith.read(event["made_with"]))
            case "lost":
                self.losses.lose(LostShard.read(event), self.shards, self.sealed)
            case "reopened":
                if event.get("changed"):
                    self.config = event["changed"]["config"]
                    self.created = {**(self.created or {}), "identity": event["changed"]["identity"]}
                if event.get("is_alone"):
                    self._reopen_alone(event["round"], set(event["tables"]))
                else:
                    self._reopen(event["round"], set(event["tables"]), event["versions"])

    def add_receipt(self, receipt: Receipt) -> None:
        """Count a shard, unless another attempt at it counts already. Equal names of metrics become one object in memory."""
        key = receipt.round, receipt.table
        accepted = self.shards.get(key)
        if not isinstance(accepted, dict):
            accepted = self.shards[key] = dict((accepted or {}).items())
        if receipt.shard in accepted:
            return
        metrics = {sys.intern(name): value for name, value in receipt.metrics.items()}
        accepted[receipt.shard] = replace(receipt, table=sys.intern(receipt.table), metrics=metrics)
        self.losses.take_remade(receipt, self.shards, self.sealed)

    def _keep_steps(self, round_: int, num_steps: int) -> None:
        """Forget the step checkpoints of a round that hold more steps."""
        kept = [found for found in self.step_checkpoints.get(round_, []) if found.num_steps <= num_steps]
        self.step_checkpoints[round_] = kept

    def _fold(self, round_: int) -> None:
        """A round with a report is seldom read again, and its receipts are many."""
        for key, accepted in self.shards.items():
            if key[0] == round_ and isinstance(accepted, dict):
                self.shards[key] = FoldedReceipts(accepted)

    def _reopen(self, round_: int, tables: set[str], versions: int) -> None:
        """Forget tables of ``round_`` and everything of later rounds; snapshots from ``versions`` on."""
        for accepted in (self.shards, self.sealed):
            for key in [key for key in accepted if key[0] > round_ or (key[0] == round_ and key[1] in tables)]:
                del accepted[key]  # type: ignore[attr-defined]
        self.losses.forget(round_, tables)
        for begun in [begun for begun in self.step_checkpoints if begun >= min(round_, versions)]:
            del self.step_checkpoints[begun]
        for by_version in (self.snapshots, self.pushes):
            for version in [version for version in by_version if version >= versions]:
                del by_version[version]  # type: ignore[attr-defined]
        for reported in [reported for reported in self.reports if reported >= round_]:
            del self.reports[reported]
        self._unfold(round_)

    def _reopen_alone(self, round_: int, tables: set[str]) -> None:
        """Forget tables of ``round_`` and its report; later rounds do not read them."""
        for table in tables:
            self.shards.pop((round_, table), None)
            self.sealed.pop((round_, table), None)
        self.losses.forget_tables(round_, tables)
        self.reports.pop(round_, None)
        self._unfold(round_)

    def _unfold(self, round_: int) -> None:
        for key in [key for key in list(self.shards) if key[0] == round_]:
            self.shards[key] = dict(self.shards[key].items())

    def receipts(self, round_: int, table: str) -> list[Receipt]:
        """The accepted shards of a table, in shard order."""
        return [receipt for _, receipt in sorted(self.shards.get((round_, table), {}).items())]

    def is_current(self, receipt: Receipt) -> bool:
        """Whether the content of a shard is what counts now."""
        found = self.shards.get((receipt.round, receipt.table), {}).get(receipt.shard)
        return found is not None and found.checksum == receipt.checksum

    def missing(self, round_: int, table: str, num_shards: int) -> list[int]:
        """The shards of a table that are still missing."""
        accepted = self.shards.get((round_, table), {})
        return [shard for shard in range(num_shards) if shard not in accepted]
