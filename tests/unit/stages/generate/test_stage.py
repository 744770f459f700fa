"""stages/generate/stage.py on one shard of hand-made rows."""

from __future__ import annotations

from bcpg_cluster.records import (
    GREEDY_SAMPLE,
    Prompt,
    SampleId,
    StopReason,
)
from bcpg_cluster.stages.fakes.faults import Faults
from bcpg_cluster.stages.fakes.generator import FakeGenerator
from bcpg_cluster.stages.fakes.skill import encode
from bcpg_cluster.stages.generate.counts import RolloutCounts
from bcpg_cluster.stages.generate.protocol import Sampling
from bcpg_cluster.stages.generate.stage import generate, request_seed
from bcpg_cluster.store.rows import (
    prompt_row,
    rollouts_from,
)
from tests.unit.stages.rows import PROMPTS, job, run_generate


def test_generate_draws_whole_groups_with_everything_recorded():
    result = run_generate(FakeGenerator())
    drawn = rollouts_from(result.rows)
    assert [(r.id.prompt_id, r.id.sample) for r in drawn] == [(p, s) for p in "ab" for s in range(3)]
    for one in drawn:
        assert one.id.round == 1
        assert one.prompt_token_ids == encode(PROMPTS["ab".index(one.id.prompt_id)].question + "\n")
        assert one.seed == request_seed(5, "rollouts", one.id)
        assert one.policy_version == 0
        assert len(one.token_ids) == len(one.sampler_logprobs) == len(one.token_texts)
        assert all(value <= 0 for value in one.sampler_logprobs)
    assert result.metrics["samples"] == 6
    assert result.metrics["tokens"] == sum(len(one.token_ids) for one in drawn)
    assert sum(value for key, value in result.metrics.items() if key.startswith("stop.")) == 6


def test_generate_is_the_same_again_and_differs_by_run_round_and_purpose():
    assert run_generate(FakeGenerator()).rows == run_generate(FakeGenerator(seed=9)).rows
    other_run = rollouts_from(run_generate(FakeGenerator(), run_seed=6).rows)
    assert other_run[0].seed == request_seed(6, "rollouts", other_run[0].id)
    id_ = SampleId(1, "a", 0)
    seeds = {
        request_seed(5, "rollouts", id_),
        request_seed(6, "rollouts", id_),
        request_seed(5, "eval_rollouts", id_),
        request_seed(5, "rollouts", SampleId(2, "a", 0)),
        request_seed(5, "rollouts", SampleId(1, "a", 1)),
        request_seed(5, "rollouts", SampleId(1, "b", 0)),
    }
    assert len(seeds) == 6
    assert all(0 <= seed < 2**31 for seed in seeds)


def test_generate_without_seeds_per_request():
    assert {one.seed for one in rollouts_from(run_generate(FakeGenerator(), seed_per_request=False).rows)} == {None}


def test_evaluation_adds_one_greedy_sample():
    result = run_generate(FakeGenerator(), prompts_table="eval_prompts", output="eval_rollouts", greedy=True)
    drawn = rollouts_from(result.rows)
    assert [r.id.sample for r in drawn] == [GREEDY_SAMPLE, 0, 1, 2] * 2
    assert all((r.seed is None) == (r.id.sample == GREEDY_SAMPLE) for r in drawn)


def test_an_aborted_generation_is_recorded_as_such():
    result = run_generate(FakeGenerator(faults=Faults(output="aborted")))
    assert result.metrics["stop.aborted"] == 6
    assert {one.stop_reason for one in rollouts_from(result.rows)} == {StopReason.ABORTED}


def test_a_prompt_that_fills_the_context_is_not_asked():
    """The long prompt renders to 42 tokens, and a response needs one more; the others are asked as if they stood alone."""
    long = [Prompt("long", "9" * 41, "9"), *PROMPTS]
    rows = {"prompts": list(map(prompt_row, long))}
    options = {"group_size": 2, "sampling": Sampling(50), "seed_per_request": True}
    result = generate(rows, job(policy_version=4, run_seed=5, output="rollouts"),
                      engine=FakeGenerator(policy_version=4, max_model_len=42), **options)  # fmt: skip
    drawn = rollouts_from(result.rows)
    assert [r.id.prompt_id for r in drawn] == ["long", "long", "a", "a", "b", "b"]  # whole groups, in order
    for unasked in drawn[:2]:
        assert unasked.stop_reason is StopReason.PROMPT_TOO_LONG
        assert (unasked.token_ids, unasked.token_texts, unasked.sampler_logprobs) == ((), (), ())
        assert len(unasked.prompt_token_ids) == 42
        assert unasked.policy_version == 4
    alone = generate({"prompts": list(map(prompt_row, PROMPTS))}, job(policy_version=4, run_seed=5, output="rollouts"),
                     engine=FakeGenerator(policy_version=4, max_model_len=42), **options)  # fmt: skip
    assert result.rows[2:] == alone.rows
    assert (result.metrics["samples"], result.metrics["stop.prompt_too_long"]) == (6, 2)
    assert RolloutCounts.read(result.metrics).drawn == 4


def test_a_prompt_with_room_for_one_token_is_asked():
    rows = {"prompts": [prompt_row(Prompt("edge", "9" * 40, "9"))]}
    result = generate(rows, job(policy_version=0, run_seed=5), engine=FakeGenerator(max_model_len=42), group_size=2,
                      sampling=Sampling(50), seed_per_request=True)  # fmt: skip
    assert [(len(r.prompt_token_ids), len(r.token_ids), r.stop_reason) for r in rollouts_from(result.rows)] == [
        (41, 1, StopReason.LENGTH)
    ] * 2


def test_when_no_prompt_fits_no_engine_is_asked():
    class Unused(FakeGenerator):
        def generate(self, requests):  # type: ignore[no-untyped-def]
            raise AssertionError("asked")

    result = run_generate(Unused(max_model_len=8))
    assert result.metrics["stop.prompt_too_long"] == 6
