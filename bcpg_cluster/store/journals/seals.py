"""The seal of a table: what it says of the shards before it, and whether that is so."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bcpg_cluster.records import Receipt


@dataclass(frozen=True, slots=True)
class SealedTable:
    """A finished table: ``asked == kept + sum(dropped)`` in samples, where the table accounts for samples.

    Attributes:
        receipts: a digest of its shards' numbers and checksums, in order; ``None`` in runs made before it was noted.
    """

    round: int
    table: str
    num_shards: int
    num_rows: int
    receipts: str | None = None

    @classmethod
    def read(cls, event: Mapping[str, Any]) -> SealedTable:
        """Of a ``sealed`` event."""
        return cls(event["round"], event["table"], event["num_shards"], event["num_rows"], event.get("receipts"))

    def what_is_wrong(self, receipts: Sequence[Receipt]) -> str | None:
        """Why the seal does not fit the table's accepted shards; ``None`` where it does. Old seals vouch for counts alone."""
        missing = sorted(set(range(self.num_shards)) - {receipt.shard for receipt in receipts})
        rows = sum(receipt.num_rows for receipt in receipts)
        if missing:
            return f"says {self.num_shards} shards, but the lines before it lack {missing}"
        if rows != self.num_rows:
            return f"says {self.num_rows} rows, but the lines before it have {rows}"
        if self.receipts not in (None, receipts_digest(receipts)):
            return "is of shards with other checksums than the lines before it have"
        return None


def receipts_digest(receipts: Iterable[Receipt]) -> str:
    """Of shard numbers and checksums, in the order given."""
    content = "".join(f"{receipt.shard} {receipt.checksum}\n" for receipt in receipts)
    return hashlib.sha256(content.encode()).hexdigest()[:16]
