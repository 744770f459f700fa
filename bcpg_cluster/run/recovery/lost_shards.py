"""Damaged shards are let go of, so that the round's ordinary work makes them again.

The rule: what a round still needs is made again when it is read (and at a start, before anything is made from it); what
weights or reports were made from is never changed. A shard that comes out the same leaves everything made from it as it is; one
that comes out different takes it along (``store.journals.lost``).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence

from bcpg_cluster.errors import DamagedShardError, RunDirectoryError
from bcpg_cluster.records import Receipt
from bcpg_cluster.stages.graph import MEASURED, REFERENCE, StageSpec, downstream, evaluation_stages
from bcpg_cluster.store.faults import FaultEvent, FaultKind
from bcpg_cluster.store.journals.lost import LostShard, RemadeShard
from bcpg_cluster.store.manifest import Manifest, ManifestState
from bcpg_cluster.store.shards import find_damaged
from bcpg_cluster.watch.observer import Faulted, Noted, Observer

_MOST_LOSSES = 3  # of one shard in one process: a disk that damages what is written there is not worked around


def is_spent(state: ManifestState, round_: int, table: str) -> bool:
    """Whether weights or a report were made from a table: it is never changed, and nothing that is still to be done reads it."""
    return round_ in state.reports or (table not in MEASURED and round_ in state.snapshots)


def is_imported(state: ManifestState, round_: int, table: str) -> bool:
    """Whether a table came from outside, so that the run cannot make it."""
    return bool(state.imports) and round_ == 1 and table in ("prompts", "rollouts")


class LostShards:
    """Lets go of damaged shards, and says so.

    Args:
        stages: the data stages of the run's rounds.
    """

    def __init__(self, manifest: Manifest, stages: Sequence[StageSpec], observer: Observer) -> None:
        self._manifest, self._stages, self._observer = manifest, tuple(stages), observer
        self._losses: Counter[tuple[int, str, int]] = Counter()
        self._num_told = len(manifest.state.losses.remade)

    def check(self, rounds: Iterable[int]) -> None:
        """Read what these rounds have so far and let go of what is damaged, before anything is made from it.

        Raises:
            RunDirectoryError: it is something that the run cannot make.
        """
        wanted = set(rounds)
        receipts = [
            receipt
            for (round_, table), accepted in self._manifest.state.shards.items()
            if round_ in wanted and not is_spent(self._manifest.state, round_, table)
            for receipt in accepted.values()
        ]
        for error in find_damaged(self._manifest.run_dir, receipts):
            self.lose(error)

    def lose(self, error: DamagedShardError) -> None:
        """Let go of a shard; nothing where another attempt has taken its place since.

        Raises:
            RunDirectoryError: the run cannot make it.
            DamagedShardError: ``error`` itself, for a shard that comes out damaged again and again, or is spent.
        """
        state, key = self._manifest.state, (error.round, error.table, error.shard)
        receipt = next((r for r in state.receipts(error.round, error.table) if r.shard == error.shard), None)
        if receipt is None or receipt.attempt != error.attempt:
            return
        if is_imported(state, error.round, error.table):
            raise RunDirectoryError(
                f"{error.run_dir}/{error.path} {error.what}",
                rule="responses that were made elsewhere cannot be made again here",
                remedy="put the file back from a copy, or `bcpg-cluster import` the responses again into another --run-dir",
            ) from error
        self._losses[key] += 1
        if self._losses[key] > _MOST_LOSSES or is_spent(state, error.round, error.table):
            raise error
        self._manifest.lose(lost_shard(receipt, self._stages, error.what))
        self._tell(error.round, _name(*key), f"{error.path} {error.what}", "made again")

    def tell_remade(self) -> None:
        """Say how the shards came out that were made again since the last call."""
        news = self._manifest.state.losses.remade[self._num_told :]
        self._num_told += len(news)
        for remade in news:
            name = _name(remade.round, remade.table, remade.shard)
            if remade.is_same:
                self._observer.hear(Noted(f"{name} was made again: {remade.path}, the same content"))
            else:
                why = f"{remade.path} has other content than the file that was lost"
                self._tell(remade.round, name, why, _what_follows(remade))

    def _tell(self, round_: int, what: str, why: str, then: str) -> None:
        self._observer.hear(Faulted(FaultEvent(FaultKind.REMADE, what, why, then, round=round_)))


def _name(round_: int, table: str, shard: int) -> str:
    return f"table {table} round {round_} shard {shard}"


def _what_follows(remade: RemadeShard) -> str:
    return f"made again too, since it was made from the old: {', '.join(remade.given_up)}" if remade.given_up else ""


def lost_shard(receipt: Receipt, stages: Sequence[StageSpec], why: str) -> LostShard:
    """What letting go of a shard takes along if it comes out different. ``stages``: the data stages of its run."""
    graph = evaluation_stages() if receipt.table in MEASURED else stages
    after = [table for table in downstream(graph, receipt.table) if table != receipt.table]
    is_trained_on = "weighted" in (receipt.table, *after)
    return LostShard(
        receipt.round,
        receipt.table,
        receipt.shard,
        receipt.attempt,
        receipt.checksum,
        downstream=tuple(after),
        whole=(REFERENCE,) if is_trained_on else (),
        why=why,
    )


def until_whole(work: Callable[[], object], lost: LostShards) -> None:
    """Have something done that may find damaged shards: these are let go of, and it starts again."""
    while True:
        try:
            work()
        except DamagedShardError as error:
            lost.lose(error)
        else:
            return
