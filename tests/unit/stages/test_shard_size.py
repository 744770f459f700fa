"""stages/shard_size.py: the tokens that a stage works on, as its inputs count them."""

from __future__ import annotations

import pytest

from bcpg_cluster.records import Receipt
from bcpg_cluster.stages.graph import data_stages
from bcpg_cluster.stages.shard_size import shard_size

STAGES = {stage.name: stage for stage in data_stages({"llm": "judge.llm", "late": "judge.llm"}, {"late": ["llm"]})}
COUNTED = {"rollouts": 900.0, "outcomes": 900.0, "steps": 400.0, "verdicts.llm": 400.0}


def receipts(*tables: str) -> dict[str, Receipt]:
    return {
        table: Receipt(table, 1, 0, "a", "p", 3, 10, "c", 0.0, {"tokens": COUNTED[table]} if table in COUNTED else {})
        for table in tables
    }


@pytest.mark.parametrize(
    ("stage", "size"),
    [
        ("generate", 70.0),  # nothing is drawn yet: what is expected
        ("verify", 900.0),
        ("segment", 900.0),
        ("judge.llm", 400.0),  # of wrong responses alone
        ("judge.late", 400.0),
        ("weigh", 900.0),
    ],
)
def test_a_shards_size_is_what_the_stage_works_on(stage: str, size: float):
    assert shard_size(STAGES[stage], receipts(*STAGES[stage].inputs), 70.0) == size


def test_where_nothing_is_counted_the_expectation_stands():
    bare = {table: Receipt(table, 1, 0, "a", "p", 3, 10, "c", 0.0, {}) for table in ("prompts", "rollouts")}
    assert shard_size(STAGES["verify"], bare, 0.0) == 0.0
