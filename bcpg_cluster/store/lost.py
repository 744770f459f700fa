"""Shards whose files were found damaged, until another attempt takes their place; what that does to what was made from them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class LostShard:
    """A shard that counted and does no longer.

    Attributes:
        checksum: of the file as it was accepted: what is made again is the same content where it has the same checksum.
        downstream: tables whose shard of this number is given up where the content comes out different.
        whole: tables that are then given up with all their shards (``reference``: those are the trainer ranks').
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
