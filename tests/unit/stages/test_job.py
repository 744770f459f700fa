"""stages/job.py on one shard of hand-made rows."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bcpg_cluster.errors import EngineError
from bcpg_cluster.stages.fakes.generator import FakeGenerator
from bcpg_cluster.stages.job import StageJob, StageResult, StageWorker
from bcpg_cluster.store.rows import (
    prompt_row,
)
from bcpg_cluster.store.shards import read_shard, write_shard
from tests.unit.stages.rows import PROMPTS


def test_a_worker_reads_runs_and_receipts(tmp_path: Path):
    source = write_shard(
        tmp_path,
        table="prompts",
        round_=1,
        shard=4,
        attempt="p",
        rows=list(map(prompt_row, PROMPTS)),
        seconds=0,
        metrics={},
    )

    def stage(tables: Any, job: StageJob) -> StageResult:
        return StageResult(tables["prompts"][:1], {"n": float(len(tables["prompts"]))})

    worker = StageWorker({"copy": stage}, engine=FakeGenerator(policy_version=3))
    receipt = worker.run(StageJob(tmp_path, "copy", "eval_prompts", 2, 4, "att", {"prompts": source}))
    assert receipt.path == "rounds/0002/eval_prompts/00004-att.parquet"
    assert (receipt.num_rows, receipt.metrics) == (1, {"n": 2.0})
    assert receipt.seconds > 0
    assert read_shard(tmp_path, receipt) == [prompt_row(PROMPTS[0])]
    assert worker.ping() == "ready"
    assert worker.engine_call("policy_version") == 3
    assert worker.engine_call("score_next", (1, 2), 3) < 0
    worker.close()
    with pytest.raises(EngineError, match="closed"):
        worker.engine_call("generate", [])


FIRST_LEASE = """
import sys
from pathlib import Path
from bcpg_cluster.stages.job import StageJob, StageResult, StageWorker

worker = StageWorker({"segment": lambda tables, job: StageResult([], {})})
before = set(sys.modules)
worker.run(StageJob(Path(sys.argv[1]), "segment", "steps", 1, 0, "a" * 8, {}))
print(sorted(set(sys.modules) - before))
"""


def test_the_first_lease_of_a_member_waits_for_no_import(tmp_path: Path):
    ended = subprocess.run(
        [sys.executable, "-c", FIRST_LEASE, str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert ended.stdout.strip() == "[]"
