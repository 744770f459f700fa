"""Receipts of rounds that are over, kept small: a run of many rounds does not grow in memory with every shard it ever had."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator, Mapping

from bcpg_cluster.records import Receipt

_FIELDS = tuple(Receipt.__dataclass_fields__)


class FoldedReceipts(Mapping[int, Receipt]):
    """The accepted shards of a table, packed; to be read as a whole.

    Each lookup unpacks the table anew (some 5 microseconds a receipt), so take ``dict(folded.items())`` to look up many;
    ``dict(folded)`` is one lookup a receipt.
    """

    __slots__ = ("_num", "_packed")

    def __init__(self, receipts: Mapping[int, Receipt]) -> None:
        rows = [[getattr(receipt, name) for name in _FIELDS] for receipt in receipts.values()]
        self._num = len(rows)
        self._packed = zlib.compress(json.dumps(rows).encode(), level=1)

    def __len__(self) -> int:
        return self._num

    def __iter__(self) -> Iterator[int]:
        return iter(self._unfolded())

    def __getitem__(self, shard: int) -> Receipt:
        return self._unfolded()[shard]

    def __contains__(self, shard: object) -> bool:
        return shard in self._unfolded()

    def items(self):  # type: ignore[no-untyped-def]
        """As of a dict; unpacked once."""
        return self._unfolded().items()

    def values(self):  # type: ignore[no-untyped-def]
        """As of a dict; unpacked once."""
        return self._unfolded().values()

    def _unfolded(self) -> dict[int, Receipt]:
        receipts = (Receipt(*row) for row in json.loads(zlib.decompress(self._packed)))
        return {receipt.shard: receipt for receipt in receipts}
