"""verify: check every final answer. An infrastructure failure leaves a sample without a reward, never with a zero."""

from __future__ import annotations

from bcpg_cluster.records import Outcome
from bcpg_cluster.stages.job import StageJob, StageResult, Tables
from bcpg_cluster.stages.verify.counts import OutcomeCounts
from bcpg_cluster.stages.verify.protocol import Verifier
from bcpg_cluster.store.rows import outcome_row, prompts_from, rollouts_from


def verify(
    tables: Tables, job: StageJob, *, verifier: Verifier, prompts_table: str, rollouts_table: str
) -> StageResult:
    """One outcome for every rollout of the shard."""
    gold = {prompt.prompt_id: prompt.answer for prompt in prompts_from(tables[prompts_table])}
    outcomes, unparsed = [], 0
    rollouts = rollouts_from(tables[rollouts_table])
    for rollout in rollouts:
        checked = verifier.verify(rollout.text, gold[rollout.id.prompt_id], rollout.stop_reason)
        unparsed += checked.is_unparsed
        outcomes.append(Outcome(rollout.id, checked.status, checked.reward, checked.extracted))
    tokens = sum(len(rollout.token_ids) for rollout in rollouts)
    counts = OutcomeCounts.of(outcomes, unparsed=unparsed, tokens=tokens)
    return StageResult([outcome_row(outcome) for outcome in outcomes], counts.metrics())
