"""generate: G responses to every prompt of a shard. evaluate: the same, with a greedy one beside the sampled ones."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from bcpg_cluster.errors import EngineError
from bcpg_cluster.records import GREEDY_SAMPLE, Prompt, Rollout, SampleId, StopReason
from bcpg_cluster.stages.generate.counts import RolloutCounts
from bcpg_cluster.stages.generate.protocol import GenerateRequest, Generation, Sampling, TextGenerator
from bcpg_cluster.stages.job import StageJob, StageResult, Tables
from bcpg_cluster.store.rows import prompts_from, rollout_row


def request_seed(run_seed: int, purpose: str, id_: SampleId) -> int:
    """A seed of its own for every sample, reproducible and independent of shards, members and order (31 bits)."""
    text = f"{run_seed}/{purpose}/{id_.round}/{id_.prompt_id}/{id_.sample}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") >> 1


def generate(
    tables: Tables,
    job: StageJob,
    *,
    engine: TextGenerator,
    group_size: int,
    sampling: Sampling,
    seed_per_request: bool,
    prompts_table: str = "prompts",
    greedy: bool = False,
) -> StageResult:
    """Draw ``group_size`` responses to every prompt of the shard, and one greedy one (sample -1) if asked.

    The job's ``policy_version`` is what the coordinator believes the engine holds; any other is refused, so that no
    rollout is ever written with unknown weights. Its ``run_seed`` seeds the samples. A prompt that fills the engine's context
    is not asked: its samples are ``StopReason.PROMPT_TOO_LONG``, without a token.

    Raises:
        EngineError: the engine holds other weights, or failed.
    """
    expected = int(job.parameters["policy_version"])
    prompts = prompts_from(tables[prompts_table])
    samples = [*([GREEDY_SAMPLE] if greedy else []), *range(group_size)]
    ids = [SampleId(job.round, prompt.prompt_id, sample) for prompt in prompts for sample in samples]
    run_seed = int(job.parameters["run_seed"]) if seed_per_request else None
    if job.given_up:  # the prompt may be what ends engines, so nothing of it reaches this one
        requests = [GenerateRequest((), sampling, None)] * len(ids)
        generations = [Generation((), (), (), StopReason.ABORTED, expected)] * len(ids)
    else:
        requests = _requests(engine, prompts, ids, sampling, run_seed, job.output)
        generations = _answers(engine, requests, expected)
    wrong = {generation.policy_version for generation in generations} - {expected}
    if wrong:
        raise EngineError(f"the engine answered with policy version {sorted(wrong)}, expected {expected}")
    rollouts = [
        Rollout(
            id_,
            request.prompt_token_ids,
            generation.token_ids,
            generation.logprobs,
            generation.token_texts,
            generation.stop_reason,
            generation.policy_version,
            request.seed,
            generation.entropies,
        )
        for id_, request, generation in zip(ids, requests, generations, strict=True)
    ]
    counts = RolloutCounts.of((len(generation.token_ids), generation.stop_reason) for generation in generations)
    return StageResult([rollout_row(rollout) for rollout in rollouts], counts.metrics())


def _answers(engine: TextGenerator, requests: Sequence[GenerateRequest], version: int) -> list[Generation]:
    """The engine's answers, in order; where a prompt leaves no room for one, an empty one that says so."""
    limit = engine.max_model_len
    fits = [limit is None or len(request.prompt_token_ids) < limit for request in requests]
    asked = [request for request, is_asked in zip(requests, fits, strict=True) if is_asked]
    answers = iter(engine.generate(asked) if asked else ())
    unasked = Generation((), (), (), StopReason.PROMPT_TOO_LONG, version)
    return [next(answers) if is_asked else unasked for is_asked in fits]


def _requests(
    engine: TextGenerator,
    prompts: Sequence[Prompt],
    ids: Sequence[SampleId],
    sampling: Sampling,
    run_seed: int | None,
    purpose: str,
) -> list[GenerateRequest]:
    rendered = {prompt.prompt_id: engine.render([{"role": "user", "content": prompt.question}]) for prompt in prompts}
    greedy = Sampling(max_tokens=sampling.max_tokens, temperature=0.0)
    return [
        GenerateRequest(
            rendered[id_.prompt_id],
            greedy if id_.sample == GREEDY_SAMPLE else sampling,
            None if run_seed is None or id_.sample == GREEDY_SAMPLE else request_seed(run_seed, purpose, id_),
        )
        for id_ in ids
    ]
