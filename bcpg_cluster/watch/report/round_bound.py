"""The least a round could take, and how busy its pools were, from when its pieces of work were done.

The bound of one strict offline round on separate pools, where the same pieces take the same time:

    max(D, R) + T + P

D is the data half: the longest pool's work spread evenly over what the pool can do at once, or the longest way of one shard through
the stages, whichever is longer. R is the reference pass, T the optimiser steps with the snapshot, P the push. The reference
pass needs none of the data's pools, so it may hide behind them; the evaluation may hide behind the next round's training, so
it is not in the bound. No order of the pieces is faster, so ``bound_s <= took_s`` for every round that was done in one go.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from bcpg_cluster.cluster.turns import TRAINER
from bcpg_cluster.config.run import Config
from bcpg_cluster.stages.graph import CPU_POOL, REFERENCE, ROLLOUT_POOL, StageSpec, evaluation_stages
from bcpg_cluster.store.reports import RoundBound

ONE_SHARD = "one shard"
"""``RoundBound.longest`` where no pool's work is as long as the way of one shard."""
Interval = tuple[float, float]
"""Beginning and end, in seconds of one clock."""


@dataclass(frozen=True, slots=True)
class Piece:
    """A stage's work on one shard (of the reference pass: a rank's share of it), done and accepted."""

    round: int
    table: str
    shard: int
    began: float
    ended: float

    @property
    def seconds(self) -> float:
        """How long a member worked on it."""
        return self.ended - self.began

    @property
    def interval(self) -> Interval:
        """When a member worked on it."""
        return self.began, self.ended


@dataclass(frozen=True, slots=True)
class Capacity:
    """What a pool can do at once.

    Attributes:
        num_slots: members times the shards that each works on at once, as configured.
        may_vary: whether it may be more in the middle of a round: the pool is resized, or a member's leases follow its queue. The
            most pieces that were under way at once then count where they are more.
    """

    num_slots: int
    may_vary: bool

    def seen(self, intervals: Iterable[Interval]) -> int:
        """How many pieces the pool could do at once."""
        return max(self.num_slots, most_at_once(intervals)) if self.may_vary else self.num_slots


@dataclass(frozen=True, slots=True)
class Layout:
    """Which stage makes which table in which pool, and what the pools can do at once."""

    data: tuple[StageSpec, ...]
    pools: Mapping[str, str]
    capacities: Mapping[str, Capacity]


@dataclass(frozen=True, slots=True)
class RoundTimes:
    """One round, done from beginning to end by one process.

    Attributes:
        pieces: of the round, those of its evaluation too.
        began, ended: of the round's turn, by the clock of the pieces.
        reference_s: the pass where no piece tells of it.
        train_s: optimiser steps and snapshot.
        push_s: the push and its proof.
    """

    pieces: Sequence[Piece]
    began: float
    ended: float
    reference_s: float
    train_s: float
    push_s: float


@dataclass(frozen=True, slots=True)
class RoundAccount:
    """What a round's time went into, see :class:`bcpg_cluster.store.reports.RoundReport`.

    Attributes:
        bound: ``None`` where there is none.
        busy: empty where it is unknown.
    """

    bound: RoundBound | None = None
    busy: Mapping[str, float] = field(default_factory=dict)


def layout_of(config: Config) -> Layout:
    """A configuration's stages and pools."""
    pools = {spec.output: spec.pool for spec in (*config.data_stages, *evaluation_stages())}
    follow_their_queue = {config.judge_pool(name) for name in config.judges} - {CPU_POOL}
    if config.pool(ROLLOUT_POOL).num_gpus > 0:
        follow_their_queue.add(ROLLOUT_POOL)
    capacities = {}
    for pool in dict.fromkeys(pools.values()):
        settings = config.pool(pool)
        may_vary = pool in follow_their_queue or (settings.max or settings.members) > settings.members
        capacities[pool] = Capacity(settings.members * settings.leases_per_member, may_vary)
    return Layout(config.data_stages, pools, capacities)


def round_bound(times: RoundTimes, layout: Layout) -> RoundBound | None:
    """The round's bound beside what it took; ``None`` where a stage of its data half has no piece."""
    found: dict[str, list[Piece]] = defaultdict(list)
    for piece in times.pieces:
        found[piece.table].append(piece)
    data = {spec: found[spec.output] for spec in layout.data}
    if not all(data.values()):
        return None
    longest, data_s = _data_half(data, layout)
    passed = covered_s(piece.interval for piece in found[REFERENCE])
    reference_s = passed or times.reference_s
    return RoundBound(
        bound_s=max(data_s, reference_s) + times.train_s + times.push_s,
        took_s=times.ended - times.began,
        data_s=data_s,
        longest=longest,
        reference_s=reference_s,
        train_s=times.train_s,
        push_s=times.push_s,
    )


def _data_half(data: Mapping[StageSpec, Sequence[Piece]], layout: Layout) -> tuple[str, float]:
    """What the data half takes at least, and whose seconds these are."""
    by_pool: dict[str, list[Piece]] = defaultdict(list)
    for spec, pieces in data.items():
        by_pool[spec.pool] += pieces
    shares = {
        pool: sum(piece.seconds for piece in pieces) / layout.capacities[pool].seen(piece.interval for piece in pieces)
        for pool, pieces in by_pool.items()
    }
    pool = max(shares, key=lambda name: shares[name])
    way_s = longest_way_s({spec: {piece.shard: piece.seconds for piece in of} for spec, of in data.items()})
    return (ONE_SHARD, way_s) if way_s > shares[pool] else (pool, shares[pool])


def bound_text(bound: RoundBound) -> str:
    """How the bound comes about, in a line."""
    return (
        f"max(D {bound.data_s:.1f} s of {bound.longest}, R {bound.reference_s:.1f} s) + T {bound.train_s:.1f} s "
        f"+ P {bound.push_s:.1f} s"
    )


def longest_way_s(seconds: Mapping[StageSpec, Mapping[int, float]]) -> float:
    """Seconds of the slowest shard from its first stage to its last, if it never had to wait: every stage begins when the last of
    its inputs is there.

    Args:
        seconds: of each shard, by stage, in the order of the data flow.
    """
    ends: dict[tuple[str, int], float] = {}
    for spec, by_shard in seconds.items():
        for shard, took in by_shard.items():
            ready = max((ends.get((table, shard), 0.0) for table in spec.inputs), default=0.0)
            ends[spec.output, shard] = ready + took
    return max(ends.values(), default=0.0)


def busy_shares(
    pieces: Iterable[Piece], layout: Layout, began: float, ended: float, trainer_s: float | None
) -> dict[str, float]:
    """By pool: of the work that it could have done between two moments, the share that it did.

    Args:
        pieces: of any round; what lies outside the two moments does not count.
        trainer_s: seconds in which the trainers worked, beside their pieces of the reference pass; ``None`` where they did nothing.
    """
    if ended <= began:
        return {}
    within: dict[str, list[Interval]] = {pool: [] for pool in layout.capacities}
    reference: list[Interval] = []
    for piece in pieces:
        start, end = max(piece.began, began), min(piece.ended, ended)
        if start < end:
            of_pool = reference if piece.table == REFERENCE else within.get(layout.pools.get(piece.table, ""), [])
            of_pool.append((start, end))
    shares = {
        pool: sum(end - start for start, end in spans) / (layout.capacities[pool].seen(spans) * (ended - began))
        for pool, spans in within.items()
    }
    if trainer_s is not None or reference:
        shares[TRAINER] = min((covered_s(reference) + (trainer_s or 0.0)) / (ended - began), 1.0)
    return shares


def covered_s(intervals: Iterable[Interval]) -> float:
    """Seconds in which at least one of them was under way."""
    total, until = 0.0, float("-inf")
    for began, ended in sorted(intervals):
        total += max(ended - max(began, until), 0.0)
        until = max(until, ended)
    return total


def most_at_once(intervals: Iterable[Interval]) -> int:
    """How many were under way at once at most; one that ends when another begins makes room for it."""
    marks: list[tuple[float, int]] = []
    for began, ended in intervals:
        marks += [(began, 1), (ended, -1)]
    now = most = 0
    for _, change in sorted(marks):
        now += change
        most = max(most, now)
    return most
