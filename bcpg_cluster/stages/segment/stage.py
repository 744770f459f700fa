"""segment: cut the wrong responses of the kept groups into steps. Right ones need none (their weight is always 1)."""

from __future__ import annotations

from bcpg_cluster.cluster.liveness.progress import present_work
from bcpg_cluster.records import Rollout
from bcpg_cluster.stages.job import StageJob, StageResult, Tables
from bcpg_cluster.stages.segment.protocol import ResponseSegmenter, SampledResponse
from bcpg_cluster.stages.weigh.groups import kept_rows, shard_groups
from bcpg_cluster.store.rows import Row, outcomes_from, rollouts_from, step_rows

_AT_ONCE = 64  # responses in one call, so that a segmenter by rules marks its progress


def segment(tables: Tables, job: StageJob, *, cut: ResponseSegmenter, min_verified_share: float) -> StageResult:
    """The steps of every wrong response that may be trained on; what the segmenter counted is in the metrics."""
    outcomes = outcomes_from(tables["outcomes"])
    # Truncated responses are cut like any other, whatever `weigh.truncated` says: `mask` and `drop` only ever take samples
    # away, so these steps and the verdicts on them do for all three, and weighing again calls no judge.
    wrong: list[Rollout] = [
        rollout
        for group, result in shard_groups(rollouts_from(tables["rollouts"]), outcomes, min_verified_share)
        for rollout, row in kept_rows(group, result, outcomes)
        if row.reward == 0.0
    ]
    rows: list[Row] = []
    counts: dict[str, float] = {}
    for start in range(0, len(wrong), _AT_ONCE):
        some = wrong[start : start + _AT_ONCE]
        found = cut.cut([SampledResponse(r.token_texts, r.sampler_logprobs, r.entropies) for r in some])
        for rollout, steps in zip(some, found.steps, strict=True):
            rows += step_rows(rollout.id, steps)
        for name, number in found.counts.items():
            counts[name] = counts.get(name, 0.0) + number
        present_work().mark()
    tokens = sum(len(rollout.token_ids) for rollout in wrong)
    return StageResult(rows, {"samples": len(wrong), "steps": len(rows), "tokens": tokens, **counts})
