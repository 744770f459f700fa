"""stages/weigh/groups.py: which samples of a group are kept, and the rows they begin as."""

from __future__ import annotations

from dataclasses import replace

import pytest

from bcpg_cluster.errors import StoreError
from bcpg_cluster.records import Outcome, OutcomeStatus, Rollout, SampleId, StopReason
from bcpg_cluster.stages.weigh.groups import kept_rows, shard_groups
from bcpg_cluster.store.rows import WeightedRow


def rollout(sample: int, num_tokens: int) -> Rollout:
    """A response of any tokens."""
    id_, each = SampleId(1, "p", sample), range(num_tokens)
    return Rollout(id_, (7, 8), tuple(each), (-1.0,) * num_tokens, ("x",) * num_tokens, StopReason.STOP, 0, None)


def outcomes(rollouts: list[Rollout], *rewards: float | None) -> dict[SampleId, Outcome]:
    """Of responses, by their rewards."""
    status = {None: OutcomeStatus.VERIFIER_ERROR}
    pairs = zip(rollouts, rewards, strict=True)
    return {r.id: Outcome(r.id, status.get(reward, OutcomeStatus.VERIFIED), reward, None) for r, reward in pairs}


def test_a_kept_sample_has_a_row_that_lacks_only_what_verdicts_decide():
    group = [rollout(0, 2), rollout(1, 3), rollout(2, 1), rollout(3, 0)]  # right, wrong, not verified, empty
    of = outcomes(group, 1.0, 0.0, None, 0.0)
    ((members, result),) = shard_groups(group, of, 0.5)
    mean = 1 / 3
    assert kept_rows(members, result, of) == [
        (group[0], WeightedRow(group[0].id, (7, 8), (0, 1), (), (), 1.0 - mean, 1.0, mean, 3)),
        (group[1], WeightedRow(group[1].id, (7, 8), (0, 1, 2), (), (), -mean, 0.0, mean, 3)),
    ]


def test_a_group_without_a_mean_keeps_nothing():
    group = [rollout(0, 2), rollout(1, 2)]
    of = outcomes(group, None, None)
    ((members, result),) = shard_groups(group, of, 0.0)
    assert kept_rows(members, result, of) == []


def test_a_kept_sample_without_a_reward_is_an_error():
    group = [rollout(0, 2), rollout(1, 2)]
    of = outcomes(group, 1.0, 0.0)
    ((members, result),) = shard_groups(group, of, 0.5)
    with pytest.raises(StoreError, match="was kept without a reward"):
        kept_rows(members, result, of | {group[1].id: replace(of[group[1].id], reward=None)})
