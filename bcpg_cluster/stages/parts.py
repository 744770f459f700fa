"""Parts of a shard: a run of its units. A unit is what a stage works on by itself: a prompt, or a sample."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from bcpg_cluster.errors import StoreError
from bcpg_cluster.store.rows import Row

UnitKey = tuple[str, int | None]
"""A prompt's id, and the number of the sample; ``None`` where the unit is the prompt."""


@dataclass(frozen=True, slots=True)
class Part:
    """Units ``start..end-1`` of the ``num_in_shard`` that a shard has, in the order of their table."""

    start: int
    end: int
    num_in_shard: int

    @property
    def num_units(self) -> int:
        """How many units it has."""
        return self.end - self.start

    def halves(self) -> tuple[Part, ...]:
        """The part in two; itself where it is a single unit."""
        if self.num_units < 2:
            return (self,)
        middle = (self.start + self.end) // 2
        return Part(self.start, middle, self.num_in_shard), Part(middle, self.end, self.num_in_shard)


def unit_keys(rows: list[Row]) -> list[UnitKey]:
    """The units of a table, in order, each once."""
    return list(dict.fromkeys(_key(row) for row in rows))


def rows_of_part(tables: Mapping[str, list[Row]], units: str, part: Part) -> dict[str, list[Row]]:
    """The rows of a shard's tables that belong to a part: those of its units. Prompts of other units stay: they are looked up.

    Args:
        units: the table whose rows are, or belong to, the units.

    Raises:
        StoreError: the shard has another number of units than the part was made for.
    """
    keys = unit_keys(tables[units])
    if len(keys) != part.num_in_shard:
        raise StoreError(f"table {units!r} has {len(keys)} units where {part.num_in_shard} were expected")
    chosen = set(keys[part.start : part.end])
    has_samples = any(sample is not None for _, sample in chosen)

    def belongs(table: str, row: Row) -> bool:
        return _key(row) in chosen if table == units or (has_samples and "sample" in row) else True

    return {table: [row for row in rows if belongs(table, row)] for table, rows in tables.items()}


def _key(row: Row) -> UnitKey:
    return row["prompt_id"], row.get("sample")
