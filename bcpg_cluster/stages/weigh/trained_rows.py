"""What of a shard will be trained on, known before any verdict: outcomes alone decide which responses an objective takes."""

from __future__ import annotations

from bcpg_cluster.stages.job import Tables
from bcpg_cluster.stages.weigh.groups import kept_rows, shard_groups
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
    shares = settings.min_verified_share, settings.truncated
    groups = [
        [row for _, row in kept_rows(group, result, outcomes)]
        for group, result in shard_groups(rollouts_from(tables["rollouts"]), outcomes, *shares)
    ]
    return lay_out(groups, settings)
