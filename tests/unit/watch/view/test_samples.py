"""watch.view.samples: the lines of the list add up to what the run's own reports say."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from bcpg_cluster.config.run import Config
from bcpg_cluster.store.manifest import read_manifest
from bcpg_cluster.watch.view.records import SampleSummary
from bcpg_cluster.watch.view.samples import summarise
from bcpg_cluster.watch.view.shard_tables import ShardTables, read_tables, shard_receipts


def lines(run: Any, round_: int) -> list[SampleSummary]:
    state = read_manifest(run.directory)
    found: list[SampleSummary] = []
    for shard in range(len(state.receipts(round_, "rollouts"))):
        receipts = shard_receipts(state.shards, run.config, round_, shard)
        tables = read_tables(run.directory, run.config, round_, shard, receipts)
        assert tables.waiting_for == ()
        found += summarise(tables, run.config).samples
    return found


@pytest.mark.parametrize("round_", [1, 2, 3])
def test_lines_add_up_to_the_report(finished_run: Any, round_: int):
    samples, report = lines(finished_run, round_), finished_run.reports[round_]
    account = report["samples"]
    assert len(samples) == account["asked"] == 96
    assert sum(sample.drop is None for sample in samples) == account["kept"]
    assert Counter(s.drop for s in samples if s.drop) == {r: n for r, n in account["dropped"].items() if n}
    wrong = [sample for sample in samples if sample.reward == 0.0 and sample.drop is None]
    mined, tokens = sum(s.num_mined for s in wrong), sum(s.num_tokens for s in wrong)
    assert mined / tokens == pytest.approx(report["mined_share"])
    masses = sum(s.mined_mass or 0.0 for s in wrong), sum(s.mass or 0.0 for s in wrong)
    assert masses[0] / masses[1] == pytest.approx(report["mined_gradient_share"], abs=1e-4)  # lines are rounded
    (agreed,) = report["judges"]["agreement"].values()
    assert sum(s.num_disputed for s in samples) == pytest.approx((1 - agreed["agreement"]) * agreed["steps"])


def test_a_shard_that_is_not_weighed_waits(finished_run: Any):
    state, config = read_manifest(finished_run.directory), finished_run.config
    receipts = shard_receipts(state.shards, config, 1, 0)
    early = {name: receipt for name, receipt in receipts.items() if name in ("prompts", "rollouts")}
    shard = summarise(read_tables(finished_run.directory, config, 1, 0, early), config)
    assert set(shard.waiting_for) == {"outcomes", "steps", "weighted", "verdicts.llm", "verdicts.prm", "verdicts.truth"}
    assert {(s.status, s.drop, s.reward, s.num_mined) for s in shard.samples} == {("waiting", "waiting", None, 0)}


@pytest.mark.parametrize(
    ("llm", "prm", "strip"),
    [
        ((1, 0, 0), (0.9, 0.1, 0.1), "mxe"),
        ((1, 0, 0), (0.9, 0.95, 0.1), "mde"),
        ((0, 1, 1), (0.1, 0.9, 0.9), "xme"),
        (None, (0.9, 0.9, 0.9), "..e"),
    ],
)
def test_steps_of_an_answer_without_weights_have_the_letters_of_their_labels(
    make_tables: Callable[..., ShardTables], config: Config, llm: Any, prm: Any, strip: str
):
    tables = make_tables(llm=llm, prm=prm)
    assert tables.weighted is not None
    only_right = replace(tables, weighted=tables.weighted.slice(1, 1))  # as rejection fine-tuning lays it out
    wrong, _ = summarise(only_right, config).samples
    assert (wrong.strip, wrong.num_mined, wrong.num_spared) == (strip, 0, 0)


def test_steps_of_an_answer_with_weights_have_the_letters_of_its_tokens(
    make_tables: Callable[..., ShardTables], config: Config
):
    tables = make_tables(llm=(1, 1, 0), prm=(0.9, 0.95, 0.1))  # the second is called right and, by its row, not mined
    assert summarise(tables, config).samples[0].strip == "mxe"
