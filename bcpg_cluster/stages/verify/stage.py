"""verify: check every final answer. An infrastructure failure leaves a sample without a reward, never with a zero."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from bcpg_cluster.cluster.liveness.progress import present_work
from bcpg_cluster.records import Outcome, OutcomeStatus, Rollout, StopReason
from bcpg_cluster.stages.job import StageJob, StageResult, Tables
from bcpg_cluster.stages.verify.counts import OutcomeCounts
from bcpg_cluster.stages.verify.protocol import SampleVerifier, Verification, Verifier
from bcpg_cluster.store.rows import outcome_row, prompts_from, rollouts_from

_MAX_WHY = 2000  # characters; the end of an exception's traceback


def verify(
    tables: Tables,
    job: StageJob,
    *,
    verifier: Verifier,
    prompts_table: str,
    rollouts_table: str,
    num_threads: int = 1,
) -> StageResult:
    """One outcome for every rollout of the shard; ``num_threads`` ask the verifier at once."""
    prompts = {prompt.prompt_id: prompt for prompt in prompts_from(tables[prompts_table])}
    outcomes, unparsed = [], 0
    rollouts = rollouts_from(tables[rollouts_table])

    def check(rollout: Rollout) -> Verification:
        if job.given_up:
            return Verification(OutcomeStatus.VERIFIER_ERROR, None, why=job.given_up)
        prompt = prompts[rollout.id.prompt_id]
        if rollout.stop_reason is StopReason.PROMPT_TOO_LONG:
            return Verification(OutcomeStatus.PROMPT_TOO_LONG, None)
        if isinstance(verifier, SampleVerifier):
            return verifier.verify_sample(rollout.text, prompt, rollout.stop_reason)
        return verifier.verify(rollout.text, prompt.answer, rollout.stop_reason)

    with ThreadPoolExecutor(num_threads) as threads:
        found = []
        for verified in threads.map(check, rollouts):
            present_work().mark()
            found.append(verified)
    for rollout, checked in zip(rollouts, found, strict=True):
        unparsed += checked.is_unparsed
        why = checked.why[-_MAX_WHY:] if checked.reward is None else ""  # of those with a reward, `grade` says it
        outcomes.append(Outcome(rollout.id, checked.status, checked.reward, checked.extracted, why))
    tokens = sum(len(rollout.token_ids) for rollout in rollouts)
    counts = OutcomeCounts.of(outcomes, unparsed=unparsed, tokens=tokens)
    return StageResult([outcome_row(outcome) for outcome in outcomes], counts.metrics())
