"""The reference pass of a round, shard by shard; in every order of a round the same calls, so the same numbers."""

from __future__ import annotations

from collections.abc import Iterable

from bcpg_cluster.stages.graph import REFERENCE
from bcpg_cluster.stages.train.client import TrainerClient
from bcpg_cluster.stages.train.table.opening import RANKS
from bcpg_cluster.stages.train.worker import ReferencePiece, TrainJob, reference_shard
from bcpg_cluster.store.layout import new_attempt
from bcpg_cluster.store.manifest import Manifest
from bcpg_cluster.watch.observer import Observer, ShardAccepted


class ReferencePass:
    """Has the ranks compute what is missing of a round's ``reference`` table, and counts it.

    Args:
        num_ranks: each shard of the round has a part by every rank.
    """

    def __init__(
        self, manifest: Manifest, trainers: TrainerClient, num_ranks: int, round_: int, observer: Observer
    ) -> None:
        self._manifest, self._trainers, self._num_ranks = manifest, trainers, num_ranks
        self._round, self._observer = round_, observer

    @property
    def is_sealed(self) -> bool:
        """Whether nothing is left to do."""
        return (self._round, REFERENCE) in self._manifest.state.sealed

    def begin(self) -> None:
        """Let go of parts that were cut by rank alone: programs before this one did so, and their numbers mean other rows."""
        receipts = self._manifest.state.receipts(self._round, REFERENCE)
        if not self.is_sealed and any(RANKS not in receipt.metrics for receipt in receipts):
            self._manifest.reopen(self._round, [REFERENCE], self._round)

    def missing(self, shards: Iterable[int]) -> list[int]:
        """Those of a round's shards of which some rank's part is missing."""
        there = self._manifest.state.shards.get((self._round, REFERENCE), {})
        return [shard for shard in shards if any(part not in there for part in self._parts(shard))]

    def compute(self, job: TrainJob, piece: ReferencePiece) -> None:
        """Have a shard's parts computed. They count only while what they were made of does.

        Raises:
            EngineError: the trainers failed.
            DamagedShardError: what the rows are read from is damaged.
        """
        receipts = self._trainers.reference(job, piece, new_attempt())
        counted = self._manifest.accept_made_of(receipts, piece.inputs.values())
        for receipt, counts in zip(receipts, counted, strict=True):
            if counts:
                self._observer.hear(ShardAccepted(self._round, REFERENCE, receipt))

    def finish(self, job: TrainJob) -> None:
        """Compute what is missing of a weighed round, and seal the table. Raises as :meth:`compute`."""
        if self.is_sealed:
            return
        weighted = {receipt.shard: receipt for receipt in job.weighted}
        for shard in self.missing(weighted):
            self.compute(job, ReferencePiece(shard, {"weighted": weighted[shard]}))
        self._manifest.seal(self._round, REFERENCE, len(weighted) * self._num_ranks)

    def seconds(self) -> float:
        """What the whole pass takes the trainers: of each shard its slowest rank. 0 for a table cut otherwise."""
        slowest: dict[int, float] = {}
        for receipt in self._manifest.state.receipts(self._round, REFERENCE):
            shard = receipt.shard // self._num_ranks
            slowest[shard] = max(slowest.get(shard, 0.0), receipt.seconds)
        return sum(slowest.values())

    def _parts(self, shard: int) -> list[int]:
        return [reference_shard(shard, rank, self._num_ranks) for rank in range(self._num_ranks)]
