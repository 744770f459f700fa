"""What the overview takes from a few shards: samples that answer first questions, and how far trainer and sampler are apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

from bcpg_cluster.errors import BcpgError, StoreError
from bcpg_cluster.stages.graph import REFERENCE
from bcpg_cluster.watch.view.overview.overview import RunSeen
from bcpg_cluster.watch.view.overview.records import Answer, Round
from bcpg_cluster.watch.view.overview.start_here import answer_from_sample, answers_from_rounds, candidates
from bcpg_cluster.watch.view.records import ShardSummary
from bcpg_cluster.watch.view.sample_records import SampleView

_MOST_BYTES = 20_000_000  # of response files that are looked into for answers; of one for a distance, a quarter
_LAST_ROUNDS, _SHARDS_A_ROUND = 3, 2
_KEYS = ("spared", "disputed", "mistaken")


class Shards(Protocol):
    """What is read of a run; all of it raises :class:`BcpgError` where files are missing or broken."""

    def shard(self, round_: int, shard: int) -> ShardSummary:
        """The list of one shard."""
        ...

    def sample(self, round_: int, prompt_id: str, sample: int) -> SampleView:
        """One sample."""
        ...

    def distance(self, round_: int, shard: int) -> tuple[float, float] | None:
        """Mean and largest distance of the trainer's and the sampler's log-probs in nats; ``None`` without a pair to compare."""
        ...


class Glance:
    """Looks into the smallest shards, and remembers what it found until another round was weighed."""

    def __init__(self, shards: Shards) -> None:
        self._shards = shards
        self._looked_at = ""
        self._answers: dict[str, Answer] = {}
        self._distances: dict[object, tuple[float, float] | None] = {}

    def start_here(self, rounds: Sequence[Round], seen: RunSeen) -> tuple[Answer, ...]:
        """The answers in the order in which people ask."""
        self._look(seen)
        of_rounds = answers_from_rounds(rounds)
        of_samples = {key: [self._answers[key]] if key in self._answers else [] for key in _KEYS}
        return (
            *of_rounds[:1],
            *of_samples["spared"],
            *of_samples["disputed"],
            *of_rounds[1:],
            *of_samples["mistaken"],
        )

    def with_distance(self, of: Round, seen: RunSeen) -> Round:
        """The round with the distance of trainer and sampler, on its smallest shard."""
        small = _smallest(seen, of.round)[:1]
        if of.drift is None or not small or small[0][1] > _MOST_BYTES // 4:
            return of
        key = of.round, small[0][0], _attempts(seen, of.round, small[0][0])
        if key not in self._distances:
            try:
                self._distances[key] = self._shards.distance(of.round, small[0][0])
            except StoreError:  # the source makes a notice of it
                self._distances[key] = None
            except BcpgError:  # a store that does not answer is asked again at the next look
                return of
        mean, largest = self._distances[key] or (None, None)
        return replace(of, drift=replace(of.drift, reference_vs_sampler_mean=mean, reference_vs_sampler_max=largest))

    def _look(self, seen: RunSeen) -> None:
        weighed = {key: receipts for key, receipts in seen.shards.items() if key[1] == "weighted" and receipts}
        newest = min(weighed[max(weighed)].items())[1].path if weighed else ""
        if newest != self._looked_at:
            self._looked_at, self._answers = newest, {}
        budget = _MOST_BYTES
        for round_, _ in sorted(weighed, reverse=True)[:_LAST_ROUNDS]:
            for shard, num_bytes in _smallest(seen, round_)[:_SHARDS_A_ROUND]:
                budget -= num_bytes
                if budget < 0 or len(self._answers) == len(_KEYS):
                    return
                self._look_into(round_, shard)

    def _look_into(self, round_: int, shard: int) -> None:
        try:
            for key, line in candidates(self._shards.shard(round_, shard).samples).items():
                if key not in self._answers:
                    view = self._shards.sample(round_, line.prompt_id, line.sample)
                    self._answers[key] = answer_from_sample(key, view)
        except BcpgError:
            return  # likewise


def _attempts(seen: RunSeen, round_: int, shard: int) -> tuple[tuple[str, int, str], ...]:
    """All pieces that a shard's distance is worked out from: a stage that ran again has others under the same numbers."""
    return tuple(
        (table, piece, receipt.attempt)
        for table in ("rollouts", "weighted", REFERENCE)
        for piece, receipt in sorted(seen.shards.get((round_, table), {}).items())
        if piece == shard or table == REFERENCE  # whose pieces have numbers of their own
    )


def _smallest(seen: RunSeen, round_: int) -> list[tuple[int, int]]:
    """Shards of a round that are weighed, the smallest first, with the bytes of their responses."""
    weighed = seen.shards.get((round_, "weighted"), {})
    pieces = seen.shards.get((round_, "rollouts"), {}).items()
    sizes = [(shard, receipt.num_bytes) for shard, receipt in pieces if shard in weighed]
    return sorted(sizes, key=lambda piece: piece[1])
