"""Notes when a run's pieces of work were done, so that a round's report can say its bound and how busy the pools were."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence

from bcpg_cluster.config.run import Config
from bcpg_cluster.stages.graph import REFERENCE
from bcpg_cluster.store.manifest import ManifestState
from bcpg_cluster.store.reports import PushFacts, TrainingSummary
from bcpg_cluster.watch.observer import Event, ShardAccepted
from bcpg_cluster.watch.report.round_bound import (
    Interval,
    Layout,
    Piece,
    RoundAccount,
    RoundTimes,
    busy_shares,
    layout_of,
    round_bound,
)


def ledger_of(config: Config) -> RoundLedger:
    """For a run of this configuration."""
    return RoundLedger(layout_of(config))


class RoundLedger:
    """An observer that keeps the pieces of the rounds under way. It may hear from several threads: a training can have its own.

    A round's turn lasts from its own beginning to that of the next, or to its report where that comes first.

    Args:
        clock: seconds that pass.
    """

    def __init__(self, layout: Layout, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._layout, self._clock = layout, clock
        self._guard = threading.Lock()
        self._began: dict[int, float] = {}
        self._pieces: dict[tuple[int, str, int], Piece] = {}

    def hear(self, event: Event) -> None:
        """Note a piece of work; one that is made again takes the place of the first."""
        if isinstance(event, ShardAccepted):
            receipt, now = event.receipt, self._clock()
            key = receipt.round, receipt.table, receipt.shard
            with self._guard:
                self._pieces[key] = Piece(*key, now - receipt.seconds, now)

    def begin(self, round_: int) -> None:
        """A round begins; called again when it starts over, this changes nothing."""
        self._began.setdefault(round_, self._clock())

    def account(
        self, round_: int, state: ManifestState, training: TrainingSummary | None, push: PushFacts | None
    ) -> RoundAccount:
        """What is known of a round that is about to be reported; its pieces are forgotten. Nothing, where another process made a
        shard that counts, or another run did.

        Args:
            state: with all shards of the round.
            training, push: ``None`` in round 0.
        """
        began = self._began.get(round_)
        accepted = {(round_, table): state.shards.get((round_, table), {}) for table in self._layout.pools}
        with self._guard:
            pieces = dict(self._pieces)
            self._forget(round_)
        if began is None or not all((*key, shard) in pieces for key, shards in accepted.items() for shard in shards):
            return RoundAccount()
        ended = self._began.get(round_ + 1, self._clock())
        return self._whole(round_, (began, ended), tuple(pieces.values()), training, push)

    def _whole(
        self,
        round_: int,
        turn: Interval,
        pieces: Sequence[Piece],
        training: TrainingSummary | None,
        push: PushFacts | None,
    ) -> RoundAccount:
        if training is None or training.train_s is None or push is None:
            return RoundAccount(busy=busy_shares(pieces, self._layout, *turn, None))
        own = [piece for piece in pieces if piece.round == round_]
        train_s, reference_s = training.train_s + (training.snapshot_s or 0.0), training.reference_s or 0.0
        times = RoundTimes(own, *turn, reference_s, train_s, push.seconds)
        is_passed = any(piece.table == REFERENCE for piece in own)
        trainer_s = train_s if is_passed else train_s + reference_s
        return RoundAccount(round_bound(times, self._layout), busy_shares(pieces, self._layout, *turn, trainer_s))

    def _forget(self, round_: int) -> None:
        """Keep only what lies in the turn of a round that is still to be reported."""
        self._began.pop(round_, None)
        oldest = min(self._began.values(), default=self._clock())
        self._pieces = {key: piece for key, piece in self._pieces.items() if piece.ended > oldest}
