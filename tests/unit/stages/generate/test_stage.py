"""stages/generate/stage.py on one shard of hand-made rows."""

from __future__ import annotations

from bcpg_cluster.records import (
    GREEDY_SAMPLE,
    SampleId,
    StopReason,
)
from bcpg_cluster.stages.fakes.faults import Faults
from bcpg_cluster.stages.fakes.generator import FakeGenerator
from bcpg_cluster.stages.fakes.skill import encode
from bcpg_cluster.stages.generate.stage import request_seed
from bcpg_cluster.store.rows import (
    rollouts_from,
)
from tests.unit.stages.rows import PROMPTS, run_generate


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
