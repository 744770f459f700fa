"""watch.view.shard_tables: whose log-probs a reference table holds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bcpg_cluster.records import Receipt, SampleId
from bcpg_cluster.store.shards import write_shard
from bcpg_cluster.watch.view.shard_tables import ShardTables, reference_of
from bcpg_cluster.watch.view.source import RunSource

A, B, OTHER = SampleId(1, "p", 0), SampleId(1, "p", 1), SampleId(1, "q", 0)


def write_reference(run_dir: Path, own: SampleId, rival: SampleId) -> Receipt:
    """A table with one row: -0.5 nats for its own token, -2 nats for its rival's."""
    row: dict[str, Any] = {
        "round": 1,
        "prompt_id": own.prompt_id,
        "sample": own.sample,
        "rival_prompt_id": rival.prompt_id,
        "rival_sample": rival.sample,
        "reference_logprobs": [-0.5],
        "rival_reference_logprobs": [-2.0],
    }
    return write_shard(run_dir, table="reference", round_=1, shard=0, attempt="a", rows=[row], seconds=1.0, metrics={})


def test_a_rival_of_the_same_prompt_has_log_probs(tmp_path: Path):
    found = reference_of(tmp_path, [write_reference(tmp_path, A, B)], {A, B})
    assert {id_: list(logprobs) for id_, logprobs in found.items()} == {A: [-0.5], B: [-2.0]}


def test_a_rival_of_another_prompt_was_scored_after_this_one_and_has_none(tmp_path: Path):
    found = reference_of(tmp_path, [write_reference(tmp_path, A, OTHER)], {A, OTHER})
    assert {id_: list(logprobs) for id_, logprobs in found.items()} == {A: [-0.5]}


def test_a_sample_that_is_a_rival_alone_is_asked_for(
    finished_run: Any,
    open_source: Callable[..., RunSource],
    make_tables: Callable[..., ShardTables],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    """The right answer's row of a pair, and its rival, which has no row of its own."""
    tables = make_tables()
    assert tables.weighted is not None
    row = tables.weighted.to_pylist()[1] | {"rival_prompt_id": "p", "rival_sample": 0}
    pairs = replace(tables, weighted=type(tables.weighted).from_pylist([row]))
    source = open_source(finished_run.directory)
    receipt = write_reference(tmp_path, B, A)
    seen = replace(source.seen(), shards={(1, "weighted"): {0: receipt}, (1, "reference"): {0: receipt}})
    monkeypatch.setattr(source, "seen", lambda: seen)
    source.run_dir = tmp_path
    found = source._reference(pairs)
    assert {id_: list(logprobs) for id_, logprobs in found.items()} == {B: [-0.5], A: [-2.0]}
