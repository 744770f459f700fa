"""The groups of a shard: which samples are kept, with which advantage, and the rows they begin as."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from bcpg_cluster.errors import StoreError
from bcpg_cluster.records import Outcome, Rollout, SampleId, StopReason
from bcpg_cluster.stages.weigh.weights import GroupResult, Truncated, group_advantages, unasked_group
from bcpg_cluster.store.rows import WeightedRow


def shard_groups(
    rollouts: Sequence[Rollout],
    outcomes: Mapping[SampleId, Outcome],
    min_verified_share: float,
    truncated_are: Truncated = "negative",
) -> list[tuple[list[Rollout], GroupResult]]:
    """The rollouts of each prompt with their group's result, in the shard's order. A shard holds whole groups."""
    groups: dict[str, list[Rollout]] = {}
    for rollout in rollouts:
        groups.setdefault(rollout.id.prompt_id, []).append(rollout)
    return [(group, _result(group, outcomes, min_verified_share, truncated_are)) for group in groups.values()]


def kept_rows(
    group: Sequence[Rollout], result: GroupResult, outcomes: Mapping[SampleId, Outcome]
) -> list[tuple[Rollout, WeightedRow]]:
    """The samples of a group that may be trained on, each with its row.

    Returns:
        Rows without ``token_weights`` and ``mined``: verdicts decide those.

    Raises:
        StoreError: one of them has no reward.
    """
    kept = []
    for rollout, member in zip(group, result.members, strict=True):
        if member.advantage is None or result.mean is None:
            continue
        reward = outcomes[rollout.id].reward
        if reward is None:
            raise StoreError(f"{rollout.id} was kept without a reward")
        row = WeightedRow(
            rollout.id,
            rollout.prompt_token_ids,
            rollout.token_ids,
            token_weights=(),
            mined=(),
            advantage=member.advantage,
            reward=reward,
            group_mean=result.mean,
            group_size=result.num_verified,
        )
        kept.append((rollout, row))
    return kept


def _result(
    group: Sequence[Rollout],
    outcomes: Mapping[SampleId, Outcome],
    min_verified_share: float,
    truncated_are: Truncated,
) -> GroupResult:
    if group[0].stop_reason is StopReason.PROMPT_TOO_LONG:  # they share the prompt
        return unasked_group(len(group))
    return group_advantages(
        [outcomes[rollout.id].reward for rollout in group],
        min_verified_share,
        [len(rollout.token_ids) for rollout in group],
        truncated=[rollout.stop_reason is StopReason.LENGTH for rollout in group],
        truncated_are=truncated_are,
    )
