"""segment: cut the wrong responses of the kept groups into steps. Right ones need none (their weight is always 1)."""

from __future__ import annotations

from bcpg_cluster.cluster.liveness.progress import present_work
from bcpg_cluster.stages.job import StageJob, StageResult, Tables
from bcpg_cluster.stages.segment.segmenters import Segmenter
from bcpg_cluster.stages.weigh.groups import shard_groups
from bcpg_cluster.store.rows import outcomes_from, rollouts_from, step_rows


def segment(tables: Tables, job: StageJob, *, cut: Segmenter, min_verified_share: float) -> StageResult:
    """The steps of every wrong response that may be trained on."""
    outcomes = outcomes_from(tables["outcomes"])
    # Truncated responses are cut like any other, whatever `weigh.truncated` says: `mask` and `drop` only ever take samples
    # away, so these steps and the verdicts on them do for all three, and weighing again calls no judge.
    rows, samples, tokens = [], 0, 0
    for group, result in shard_groups(rollouts_from(tables["rollouts"]), outcomes, min_verified_share):
        for rollout, member in zip(group, result.members, strict=True):
            if member.drop_reason is None and outcomes[rollout.id].reward == 0.0:
                rows += step_rows(rollout.id, cut(rollout.token_texts))
                present_work().mark()
                samples += 1
                tokens += len(rollout.token_ids)
    return StageResult(rows, {"samples": samples, "steps": len(rows), "tokens": tokens})
