"""stages/frontier.py: the counted rule says what the plain one says, on any graph and in any order."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bcpg_cluster.stages.frontier import Frontier
from bcpg_cluster.stages.graph import StageSpec, data_stages

Accepted = dict[str, set[int]]


def plainly_ready(stages: list[StageSpec], num_shards: int, accepted: Accepted) -> set[tuple[str, int]]:
    """The rule as one would say it."""
    return {
        (stage.name, shard)
        for stage in stages
        for shard in range(num_shards)
        if shard not in accepted.get(stage.output, set())
        and all(shard in accepted.get(table, set()) for table in stage.inputs)
    }


@st.composite
def graphs(draw: st.DrawFn) -> list[StageSpec]:
    """Stages that read tables made before them, and tables from outside; a table may be read twice over."""
    tables = ["given", "also given"]
    stages = []
    for number in range(draw(st.integers(1, 6))):
        inputs = tuple(draw(st.lists(st.sampled_from(tables), min_size=0, max_size=4)))
        stages.append(StageSpec(f"stage {number}", "pool", inputs, f"table {number}"))
        tables.append(f"table {number}")
    return stages


@given(graphs(), st.integers(1, 5), st.randoms(use_true_random=False), st.data())
def test_what_is_ready_is_what_the_plain_rule_says(
    stages: list[StageSpec], num_shards: int, rng: random.Random, data: st.DataObject
):
    shards = st.sets(st.integers(0, num_shards - 1))
    accepted: Accepted = {name: set(range(num_shards)) for name in ("given", "also given")}
    accepted |= {
        stage.output: data.draw(shards) for stage in stages
    }  # any resumed state, holes in early tables included
    frontier = Frontier(stages, num_shards, accepted)
    ready = {(stage.name, shard) for stage, shard in frontier.ready()}
    output_of = {stage.name: stage.output for stage in stages}
    while ready:
        assert not frontier.is_complete
        assert ready == plainly_ready(stages, num_shards, accepted)
        name, shard = rng.choice(sorted(ready))
        ready.remove((name, shard))
        accepted[output_of[name]].add(shard)
        more = [(stage.name, k) for stage, k in frontier.accept(output_of[name], shard)]
        assert len(set(more)) == len(more)
        assert not ready & set(more)  # each is named once
        ready |= set(more)
    assert frontier.is_complete
    assert plainly_ready(stages, num_shards, accepted) == set()


def test_what_lacks_an_input_from_outside_is_never_ready():
    frontier = Frontier([StageSpec("read", "pool", ("given",), "copy")], 2, {"given": {1}})
    assert [(stage.name, shard) for stage, shard in frontier.ready()] == [("read", 1)]
    assert frontier.accept("copy", 1) == []
    assert not frontier.is_complete


def test_a_shard_is_told_once():
    frontier = Frontier(data_stages({}), 1, {"prompts": {0}})
    assert [stage.name for stage, _ in frontier.accept("rollouts", 0)] == ["verify"]
    with pytest.raises(ValueError, match="shard 0 of 'rollouts' was accepted before"):
        frontier.accept("rollouts", 0)
