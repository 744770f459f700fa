"""Shards whose files were found damaged, until another attempt takes their place; what that does to what was made from them."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from bcpg_cluster.records import Receipt

Shards = MutableMapping[tuple[int, str], Mapping[int, Receipt]]
"""Accepted shards by round and table."""
Seals = MutableMapping[tuple[int, str], Any]


@dataclass(frozen=True, slots=True)
class LostShard:
    """A shard that counted and does no longer.

    Attributes:
        checksum: of the file as it was accepted: what is made again is the same content where it has the same checksum.
        downstream: tables whose shard of this number is given up where the content comes out different.
        whole: tables that are then given up with all their shards (``reference``: its parts have numbers of their own).
        why: what was found wrong with the file.
    """

    round: int
    table: str
    shard: int
    attempt: str
    checksum: str
    downstream: tuple[str, ...]
    whole: tuple[str, ...]
    why: str

    @property
    def key(self) -> tuple[int, str, int]:
        """What names it among the lost."""
        return self.round, self.table, self.shard

    def plain(self) -> dict[str, Any]:
        """As the journal keeps it."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__}

    @classmethod
    def read(cls, event: dict[str, Any]) -> LostShard:
        """The record of a line of the journal."""
        kept = {name: event[name] for name in cls.__dataclass_fields__}
        return cls(**kept | {"downstream": tuple(event["downstream"]), "whole": tuple(event["whole"])})


@dataclass(frozen=True, slots=True)
class RemadeShard:
    """A lost shard that another attempt made again.

    Attributes:
        is_same: whether the file is, byte for byte, what was lost.
        given_up: tables that lost shards because it is not.
    """

    round: int
    table: str
    shard: int
    path: str
    is_same: bool
    given_up: tuple[str, ...]


@dataclass
class Losses:
    """The damaged shards of a run, as its journal tells them.

    Attributes:
        waiting: those that were not made again yet, by round, table and shard.
        remade: those that were, in order.
    """

    waiting: dict[tuple[int, str, int], LostShard] = field(default_factory=dict)
    remade: list[RemadeShard] = field(default_factory=list)

    def lose(self, lost: LostShard, shards: Shards, sealed: Seals) -> None:
        """A shard counts no more, unless another attempt at it does by now."""
        receipt = shards.get((lost.round, lost.table), {}).get(lost.shard)
        if receipt is not None and receipt.attempt == lost.attempt:
            _give_up(lost.round, lost.table, [lost.shard], shards, sealed)
            self.waiting[lost.key] = lost

    def take_remade(self, receipt: Receipt, shards: Shards, sealed: Seals) -> None:
        """A shard was accepted. If it was lost before, what was made of other content than this goes, so that it is made again."""
        lost = self.waiting.pop((receipt.round, receipt.table, receipt.shard), None)
        if lost is None:
            return
        is_same = receipt.checksum == lost.checksum
        given_up = []
        if not is_same:
            given_up = [t for t in lost.downstream if _give_up(lost.round, t, [lost.shard], shards, sealed)]
            given_up += [t for t in lost.whole if _give_up(lost.round, t, None, shards, sealed)]
        self.remade.append(
            RemadeShard(lost.round, lost.table, lost.shard, receipt.path, is_same=is_same, given_up=tuple(given_up))
        )

    def forget(self, round_: int, tables: set[str]) -> None:
        """Tables of ``round_`` and all later rounds are made anew."""
        for key in [key for key in self.waiting if key[0] > round_]:
            del self.waiting[key]
        self.forget_tables(round_, tables)

    def forget_tables(self, round_: int, tables: set[str]) -> None:
        """Tables of ``round_`` are made anew, and no later round's."""
        for key in [key for key in self.waiting if key[0] == round_ and key[1] in tables]:
            del self.waiting[key]


def _give_up(round_: int, table: str, numbers: Sequence[int] | None, shards: Shards, sealed: Seals) -> bool:
    """Forget shards of a table (``None``: all of them) and its seal; whether there were any."""
    accepted = shards.get((round_, table), {})
    kept = {} if numbers is None else {n: receipt for n, receipt in accepted.items() if n not in numbers}
    if len(kept) == len(accepted):
        return False
    shards[round_, table] = kept
    sealed.pop((round_, table), None)
    return True
