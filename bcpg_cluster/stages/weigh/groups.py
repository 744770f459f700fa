"""The groups of a shard: which samples are kept, with which advantage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from bcpg_cluster.records import Outcome, Rollout, SampleId, StopReason
from bcpg_cluster.stages.weigh.weights import GroupResult, Truncated, group_advantages, unasked_group


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
