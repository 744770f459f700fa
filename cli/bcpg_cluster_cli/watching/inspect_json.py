"""What ``bcpg-cluster inspect --json`` prints: samples with their steps, verdicts and weights, as JSON has them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bcpg_cluster.records import Outcome, Prompt, Rollout, SampleId, Step, Verdict
from bcpg_cluster.store.rows import WeightedRow


def sample_facts(
    row: WeightedRow,
    prompt: Prompt,
    outcome: Outcome,
    rollouts: Mapping[SampleId, Rollout],
    steps: Mapping[SampleId, Sequence[Step]],
    verdicts: Mapping[str, Mapping[SampleId, Sequence[Verdict]]],
) -> dict[str, Any]:
    """One training row."""
    rollout = rollouts[row.id]
    facts: dict[str, Any] = {
        "round": row.id.round,
        "prompt_id": row.id.prompt_id,
        "sample": row.id.sample,
        "policy_version": rollout.policy_version,
        "question": prompt.question,
        "gold": prompt.answer,
        "response": rollout.text,
        "status": str(outcome.status),
        "extracted": outcome.extracted,
        "reward": row.reward,
        "advantage": row.advantage,
        "group_mean": row.group_mean,
        "group_size": row.group_size,
        "mined_tokens": sum(row.mined),
        "tokens": len(row.mined),
        "steps": [
            {
                "text": step.text,
                "start": step.start,
                "end": step.end,
                "mined_tokens": sum(row.mined[step.start : step.end]),
                "weights": sorted(set(row.token_weights[step.start : step.end])),
                "verdicts": {name: _verdict(of_judge[row.id][index]) for name, of_judge in verdicts.items()},
            }
            for index, step in enumerate(steps.get(row.id, ()))
        ],
    }
    if row.rival is not None:
        rival = rollouts[row.rival.id]
        facts["rival"] = {"prompt_id": rival.id.prompt_id, "sample": rival.id.sample, "response": rival.text}
    return facts


def _verdict(verdict: Verdict) -> dict[str, Any]:
    return {
        "status": str(verdict.status),
        "label": verdict.label,
        "score": verdict.score,
        "error_type": verdict.error_type,
    }
