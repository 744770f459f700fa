"""Which shards of which stages can be worked on now. Pure: told of every accepted shard once, it names what that makes ready."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence

from bcpg_cluster.stages.graph import StageSpec


class Frontier:
    """The rule of the data flow: shard k of a stage is ready when shard k of all its inputs is accepted, and its own is not.

    Asking that of every shard at every receipt would cost the square of their number. So each missing shard has a count of
    the inputs it still waits for; a receipt lowers the counts of its shard in the stages that read its table, and nothing else.

    Args:
        accepted: the shards of every table that are there at the start.
    """

    def __init__(self, stages: Sequence[StageSpec], num_shards: int, accepted: Mapping[str, Container[int]]) -> None:
        def has(table: str, shard: int) -> bool:
            return shard in accepted.get(table, ())

        self._readers: dict[str, list[StageSpec]] = {}
        self._waits: dict[str, list[int]] = {}  # by stage and shard: inputs not yet accepted, -1 where the output is
        self._num_missing = 0
        for stage in stages:
            inputs = frozenset(stage.inputs)
            for table in inputs:
                self._readers.setdefault(table, []).append(stage)
            self._waits[stage.name] = [
                -1 if has(stage.output, shard) else sum(not has(table, shard) for table in inputs)
                for shard in range(num_shards)
            ]
            self._num_missing += sum(count >= 0 for count in self._waits[stage.name])
        self._outputs = {stage.output: stage.name for stage in stages}
        self._stages = tuple(stages)

    @property
    def is_complete(self) -> bool:
        """Whether every shard of every stage is accepted."""
        return not self._num_missing

    def ready(self) -> list[tuple[StageSpec, int]]:
        """All that is ready, stage by stage. For the start: afterwards :meth:`accept` names what became so."""
        return [
            (stage, shard)
            for stage in self._stages
            for shard, count in enumerate(self._waits[stage.name])
            if count == 0
        ]

    def accept(self, table: str, shard: int) -> list[tuple[StageSpec, int]]:
        """A shard of an output was accepted, for the first time; what is ready because of it."""
        own = self._waits[self._outputs[table]]
        if own[shard] < 0:
            raise ValueError(f"shard {shard} of {table!r} was accepted before")
        own[shard] = -1
        self._num_missing -= 1
        ready = []
        for stage in self._readers.get(table, ()):
            waits = self._waits[stage.name]
            if waits[shard] > 0:
                waits[shard] -= 1
                if not waits[shard]:
                    ready.append((stage, shard))
        return ready
