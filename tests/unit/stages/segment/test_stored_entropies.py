"""Entropies on their way: asked of the engine, stored in a column that is otherwise absent, read by the segmenter."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bcpg_cluster.config.run import Config
from bcpg_cluster.errors import ConfigError
from bcpg_cluster.records import SampleId
from bcpg_cluster.run.build.members import host_rollout
from bcpg_cluster.stages.fakes.generator import FakeGenerator
from bcpg_cluster.stages.generate.protocol import Sampling
from bcpg_cluster.store.rows import Row, rollouts_from
from bcpg_cluster.store.schema import schema_of
from bcpg_cluster.store.shards import read_shard, write_shard
from tests.unit.stages.rows import RIGHT, rollout, rollout_rows, run_generate

MakeConfig = Callable[..., Config]


def drawn(entropy_top_k: int) -> list[Row]:
    return run_generate(FakeGenerator(), sampling=Sampling(50, entropy_top_k=entropy_top_k)).rows


def stored(rows: list[Row], run_dir: Path) -> list[Row]:
    receipt = write_shard(run_dir, table="rollouts", round_=1, shard=0, attempt="x", rows=rows, seconds=0.0, metrics={})
    return read_shard(run_dir, receipt)


def test_they_are_stored_where_they_are_asked_for(tmp_path: Path):
    back = rollouts_from(stored(drawn(20), tmp_path))
    assert all(len(of.entropies) == len(of.token_ids) > 0 for of in back)
    assert len({entropy for of in back for entropy in of.entropies}) > 5


def test_the_column_is_absent_otherwise(tmp_path: Path):
    rows = stored(drawn(0), tmp_path)
    assert all("entropies" not in row for row in rows)
    assert "entropies" not in schema_of("rollouts").names
    assert all(of.entropies == () for of in rollouts_from(rows))


def test_a_response_of_no_token_has_none_beside_others_that_have(tmp_path: Path):
    mixed = [*drawn(20), *rollout_rows(replace(rollout("z", 0, RIGHT), token_ids=()))]
    back = {of.id: of for of in rollouts_from(stored(mixed, tmp_path))}
    assert back[SampleId(1, "z", 0)].entropies == ()


def test_the_segmenter_asks_for_them(make_config: MakeConfig):
    assert make_config().entropy_top_k == 0
    assert make_config(segment={"kind": "entropy"}).entropy_top_k == 20
    assert make_config(segment={"kind": "entropy"}, generate={"entropy_top_k": 5}).entropy_top_k == 5
    config = make_config(segment={"kind": "entropy"})
    worker = host_rollout(config.model_dump(mode="json"), 0, None, {}, 0)
    sampling = worker._stages["generate"].keywords["sampling"]  # type: ignore[attr-defined]
    assert sampling.entropy_top_k == 20
    worker.close()


@pytest.mark.parametrize(
    ("sections", "what"),
    [
        ({"segment": {"kind": "entropy"}, "generate": {"entropy_top_k": 0}}, "entropy_top_k stores, and that is 0"),
        (
            {"policy": {"kind": "vllm", "model": "m"}, "generate": {"entropy_top_k": 21}},
            "give the log-probs of 20 tokens at most",
        ),
        (
            {
                "policy": {"kind": "vllm", "model": "m", "engine_args": {"max_logprobs": 5}},
                "segment": {"kind": "entropy"},
            },
            "give the log-probs of 5 tokens at most",
        ),
    ],
)
def test_what_the_engine_cannot_give_is_refused(make_config: MakeConfig, sections: dict[str, Any], what: str):
    with pytest.raises(ConfigError, match=what):
        make_config(**sections)
