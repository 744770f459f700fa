"""What of a shard will be trained on, known before any verdict: outcomes alone decide which responses an objective takes."""

from __future__ import annotations

from bcpg_cluster.errors import StoreError
from bcpg_cluster.stages.job import Tables
from bcpg_cluster.stages.weigh.groups import shard_groups
from bcpg_cluster.stages.weigh.stage import WeighSettings, lay_out
from bcpg_cluster.store.rows import WeightedRow, outcomes_from, rollouts_from


def trained_rows(tables: Tables, settings: WeighSettings) -> list[WeightedRow]:
    """The rows that :func:`~bcpg_cluster.stages.weigh.stage.weigh` will make of a shard, in the same order.

    Args:
        tables: the shard's ``rollouts`` and ``outcomes``.

    Returns:
        Rows without ``token_weights`` and ``mined``: verdicts decide those.
    """
    outcomes = outcomes_from(tables["outcomes"])
    groups = []
    for group, result in shard_groups(
        rollouts_from(tables["rollouts"]), outcomes, settings.min_verified_share, settings.truncated
    ):
        kept = []
        for rollout, member in zip(group, result.members, strict=True):
            if member.drop_reason is not None or member.advantage is None or result.mean is None:
                continue
            reward = outcomes[rollout.id].reward
            if reward is None:
                raise StoreError(f"{rollout.id} was kept without a reward")
            row = WeightedRow(
                rollout.id,
                rollout.prompt_token_ids,
                rollout.token_ids,
                (),
                (),
                member.advantage,
                reward,
                result.mean,
                result.num_verified,
            )
            kept.append(row)
        groups.append(kept)
    return lay_out(groups, settings)
