"""Exported token weights against the run's own tables."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from bcpg_cluster.errors import UserError
from bcpg_cluster.prompts.labelled_steps import read_labelled_file
from bcpg_cluster.store.manifest import read_manifest
from bcpg_cluster.store.rows import rollouts_from, steps_from, weighted_from
from bcpg_cluster.store.shards import read_table
from bcpg_cluster_cli.exchange.export import run_export


def table(run: Any, name: str) -> Any:
    return read_table(run.directory, read_manifest(run.directory).receipts(1, name))


def exported(out: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pq.read_table(out / "data" / "round-0001.parquet").to_pylist()
    return rows


@pytest.mark.parametrize("style", ["prime-rl", "verl"])
def test_weight_times_advantage_on_every_response_token(finished_run: Any, tmp_path: Path, style: str) -> None:
    run_export("weights", tmp_path / "out", finished_run.directory, [1], style=style)
    weighted = weighted_from(table(finished_run, "weighted"))
    logprobs = {rollout.id: rollout.sampler_logprobs for rollout in rollouts_from(table(finished_run, "rollouts"))}
    rows = exported(tmp_path / "out")
    assert len(rows) == len(weighted) > 0
    for row, ours in zip(rows, weighted, strict=True):
        wanted = [weight * ours.advantage for weight in ours.token_weights]
        before = len(ours.prompt_token_ids) if style == "prime-rl" else 0
        assert row["id"] == f"1/{ours.id.prompt_id}/{ours.id.sample}"
        assert row["advantages"][before:] == pytest.approx(wanted)
        if style == "verl":
            assert (row["prompts"], row["responses"]) == (list(ours.prompt_token_ids), list(ours.token_ids))
            assert row["rollout_log_probs"] == pytest.approx(list(logprobs[ours.id]))
            continue
        assert row["token_ids"] == [*ours.prompt_token_ids, *ours.token_ids]
        assert row["mask"] == [False] * before + [True] * len(wanted)
        assert row["logprobs"][before:] == pytest.approx(list(logprobs[ours.id]))
        assert row["rl_weights"] == [0.0] * before + [float(value != 0) for value in wanted]
        assert {len(row[name]) for name in ("mask", "logprobs", "temperatures", "rl_weights", "advantages")} == {
            before + len(wanted)
        }


def test_trl_rows_come_back_as_labelled_steps(finished_run: Any, tmp_path: Path) -> None:
    run_export("weights", tmp_path / "out", finished_run.directory, [1], style="trl")
    steps = steps_from(table(finished_run, "steps"))
    read = read_labelled_file(str(tmp_path / "out" / "data" / "round-0001.parquet")).solutions
    assert {solution.solution_id: solution.steps for solution in read} == {
        f"1/{id_.prompt_id}/{id_.sample}": tuple(step.text for step in cut) for id_, cut in steps.items()
    }
    assert {label for solution in read for label in solution.truth} == {0, 1}


def test_weights_need_a_style_of_theirs(finished_run: Any, tmp_path: Path) -> None:
    for style in (None, "standard"):
        with pytest.raises(UserError, match="style"):
            run_export("weights", tmp_path / "out", finished_run.directory, style=style)
    assert not (tmp_path / "out").exists()
