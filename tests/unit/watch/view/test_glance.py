"""watch.view.glance: what is remembered of a round, and for how long."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import pytest

from bcpg_cluster.errors import BcpgError, StoreError, UnreachableError
from bcpg_cluster.run.directory import load_run_config
from bcpg_cluster.watch.view.glance import Glance
from bcpg_cluster.watch.view.overview.overview import RunSeen
from bcpg_cluster.watch.view.overview.records import Round
from bcpg_cluster.watch.view.source import RunSource


class Answers:
    """Shards whose distance is the next answer; one that is an error is raised."""

    def __init__(self, *answers: tuple[float, float] | BcpgError) -> None:
        self._answers = list(answers)

    def distance(self, round_: int, shard: int) -> tuple[float, float]:
        answer = self._answers.pop(0)
        if isinstance(answer, BcpgError):
            raise answer
        return answer

    def shard(self, round_: int, shard: int) -> Any:
        raise AssertionError("a distance takes no list")

    def sample(self, round_: int, prompt_id: str, sample: int) -> Any:
        raise AssertionError("a distance takes no sample")


@pytest.fixture(scope="module")
def first(finished_run: Any) -> tuple[Round, RunSeen]:
    """Round 1 of a run, and the run."""
    source = RunSource(finished_run.directory, partial(load_run_config, finished_run.directory))
    return source.overview().rounds[1], source.seen()


def mean(glance: Glance, round_: Round, seen: RunSeen) -> float | None:
    drift = glance.with_distance(replace(round_, drift=_bare(round_)), seen).drift
    assert drift is not None
    return drift.reference_vs_sampler_mean


def _bare(round_: Round) -> Any:
    assert round_.drift is not None
    return replace(round_.drift, reference_vs_sampler_mean=None, reference_vs_sampler_max=None)


@pytest.mark.parametrize("table", ["reference", "rollouts", "weighted"])
def test_a_piece_that_was_made_again_is_looked_at_again(first: tuple[Round, RunSeen], table: str):
    round_, seen = first
    glance = Glance(Answers((0.25, 0.5), (1.0, 2.0)))
    assert [mean(glance, round_, seen), mean(glance, round_, seen)] == [0.25, 0.25]
    pieces = {piece: replace(receipt, attempt="again") for piece, receipt in seen.shards[1, table].items()}
    again = replace(seen, shards={**seen.shards, (1, table): pieces})
    assert mean(glance, round_, again) == 1.0


def test_a_broken_table_is_remembered(first: tuple[Round, RunSeen]):
    glance = Glance(Answers(StoreError("gone"), (1.0, 2.0)))
    assert [mean(glance, *first), mean(glance, *first)] == [None, None]


def test_a_store_that_does_not_answer_is_asked_again(first: tuple[Round, RunSeen]):
    glance = Glance(Answers(UnreachableError("no answer"), (0.25, 0.5)))
    assert [mean(glance, *first), mean(glance, *first)] == [None, 0.25]
