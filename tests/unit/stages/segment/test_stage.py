"""stages/segment/stage.py on one shard of hand-made rows."""

from __future__ import annotations

from bcpg_cluster.records import (
    SampleId,
    StopReason,
)
from bcpg_cluster.stages.segment.protocol import ByText
from bcpg_cluster.stages.segment.segmenters import StructuralSegmenter
from bcpg_cluster.stages.segment.stage import segment
from bcpg_cluster.store.rows import (
    steps_from,
)
from tests.unit.stages.rows import RIGHT, SHARE, WRONG, job, outcome_rows, rollout, rollout_rows


def test_segment_cuts_wrong_responses_of_kept_groups_only():
    rollouts = [
        rollout("a", 0, RIGHT),
        rollout("a", 1, WRONG),
        rollout("a", 2, ""),  # wrong, but with its end token alone: still a response of one token
        rollout("b", 0, WRONG),
        rollout("b", 1, WRONG),
        rollout("c", 0, RIGHT),
        rollout("c", 1, WRONG, StopReason.ABORTED),
    ]
    rewards = {
        ("a", 0): 1.0, ("a", 1): 0.0, ("a", 2): 0.0, ("b", 0): 0.0, ("b", 1): 0.0, ("c", 0): 1.0, ("c", 1): None,
    }  # fmt: skip
    tables = {"rollouts": rollout_rows(*rollouts), "outcomes": outcome_rows(rewards)}
    result = segment(tables, job(), cut=ByText(StructuralSegmenter()), min_verified_share=SHARE)
    steps = steps_from(result.rows)
    assert set(steps) == {SampleId(1, "a", 1), SampleId(1, "a", 2)}
    of_wrong = steps[SampleId(1, "a", 1)]
    assert [(s.start, s.end, s.text) for s in of_wrong] == [(0, 6, "1+1=2\n"), (6, 12, "2+1=4\n"), (12, 21, "answer 4")]
    assert result.metrics == {"samples": 2, "steps": 4, "tokens": 22}
