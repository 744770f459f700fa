"""stages/weigh/trained_rows.py: the rows that weigh makes, known before any verdict."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from bcpg_cluster.stages.job import StageJob
from bcpg_cluster.stages.train.objective import OBJECTIVES, Objective
from bcpg_cluster.stages.weigh.consensus import ConsensusRule
from bcpg_cluster.stages.weigh.stage import WeighSettings, weigh
from bcpg_cluster.stages.weigh.trained_rows import trained_rows
from bcpg_cluster.stages.weigh.weights import Truncated
from bcpg_cluster.store.manifest import read_manifest
from bcpg_cluster.store.rows import weighted_from
from bcpg_cluster.store.shards import read_shard

INPUTS = ("rollouts", "outcomes", "steps", "verdicts.llm", "verdicts.prm", "verdicts.truth")


@pytest.mark.parametrize("objective", [made() for made in OBJECTIVES.values()], ids=lambda objective: objective.name)
@pytest.mark.parametrize("truncated", ["negative", "mask", "drop"])
def test_they_are_those_of_weigh_but_for_what_verdicts_decide(
    finished_run: Any, objective: Objective, truncated: Truncated
):
    """On every shard of a run, by every objective."""
    settings = WeighSettings(("llm", "prm"), ("truth",), {}, ConsensusRule(), 0.5, 0.5, truncated, 0.0, 7, objective)
    state, num_rows = read_manifest(finished_run.directory), 0
    for shard in range(3):
        receipts = {table: state.shards[1, table][shard] for table in INPUTS}
        tables = {table: read_shard(finished_run.directory, receipt) for table, receipt in receipts.items()}
        job = StageJob(finished_run.directory, "weigh", "weighted", 1, shard, "a", receipts, {"weigh": settings})
        wanted = [replace(row, token_weights=(), mined=()) for row in weighted_from(weigh(tables, job).rows)]
        before = {table: tables[table] for table in ("rollouts", "outcomes")}
        assert trained_rows(before, settings) == wanted
        num_rows += len(wanted)
    assert num_rows > 3
