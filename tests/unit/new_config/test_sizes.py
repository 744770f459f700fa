"""sizes.py and proposal.py: rounds and members for machines of several kinds; every proposal is a config."""

from __future__ import annotations

from typing import Any

import pytest

from bcpg_cluster.config.load import parse_config
from bcpg_cluster.config.run import Config
from bcpg_cluster.errors import ConfigError
from bcpg_cluster.new_config import judge as judges
from bcpg_cluster.new_config.commented_yaml import plain
from bcpg_cluster.new_config.facts import DataFacts, JudgeFacts, MachineFacts, ModelFacts
from bcpg_cluster.new_config.proposal import judge_pool, propose
from bcpg_cluster.new_config.sizes import choose_members, choose_sizes, engine_gib
from bcpg_cluster.run.build.model_memory import ModelShape
from bcpg_cluster.run.preflight.judges import judge_notes

HALF_B = ModelShape(896, 24, 14, 2, 4864, 151936, True)
MODEL = ModelFacts("/models/half", HALF_B, HALF_B.num_parameters(), 32768)
TINY = ModelFacts("/models/tiny", None, 1_000_000, 2048)
DATA = DataFacts("/d/train.csv", "/d/test.csv", {"question": "q", "answer": "a"}, 1000, 100, ("q",), ("1",))
ENDPOINT = JudgeFacts(
    {"kind": "openai", "model": "m", "endpoint": {"base_url": "http://h/v1"}, "window_steps": 8, "max_tokens": 900},
    None,
)
HOSTED = JudgeFacts({"kind": "llm", "model": "/models/half", "window_steps": 8, "max_tokens": 900}, MODEL)


def machine(num_gpus: int = 0, free: float | None = 64.0) -> MachineFacts:
    return MachineFacts("this machine", 8, num_gpus, free)


def config_for(model: ModelFacts, judge: JudgeFacts, where: MachineFacts, data: DataFacts = DATA) -> Config:
    sizes = choose_sizes(model, data, 100, where.num_gpus)
    members = choose_members(model, judge.model, judge_pool(judge), sizes, where)
    return parse_config(plain(propose("mine", model, data, {"kind": "math"}, judge, sizes, members, where)), "test")


def test_half_a_billion_parameters_take_about_what_they_were_measured_to_take():
    """configs/real-llm-cpu.yaml: 5.7 GiB for an engine, 10.8 for the trainer, rounds of whole minutes."""
    assert engine_gib(MODEL) == pytest.approx(5.7, abs=0.6)
    sizes = choose_sizes(MODEL, DATA, 500, 0)
    members = choose_members(MODEL, None, "judge.judge", sizes, machine())
    assert members.gib["trainer"] == pytest.approx(10.8, abs=1.2)


def test_a_machine_decides_between_beside_each_other_turns_adapters_and_no():
    free = {100.0: ("separate", False), 16.0: ("colocated", False), 8.0: ("colocated", True)}
    for gib, (placement, is_lora) in free.items():
        config = config_for(MODEL, HOSTED, machine(free=gib))
        assert (config.placement, config.train.lora is not None) == (placement, is_lora), gib
    with pytest.raises(ConfigError, match="even with adapters, this machine has 2"):
        config_for(MODEL, HOSTED, machine(free=2.0))


@pytest.mark.parametrize(
    ("num_gpus", "judge", "placement", "gpus"),
    [
        (1, ENDPOINT, "colocated", {"rollout": 1, "trainer": 1}),
        (2, ENDPOINT, "separate", {"rollout": 1, "trainer": 1}),
        (2, HOSTED, "colocated", {"rollout": 2, "trainer": 2, "judge.judge": 2}),
        (3, HOSTED, "separate", {"rollout": 1, "trainer": 1, "judge.judge": 1}),
        (8, HOSTED, "separate", {"rollout": 3, "trainer": 4, "judge.judge": 1}),
        (8, ENDPOINT, "separate", {"rollout": 4, "trainer": 4}),
    ],
)
def test_gpus_are_dealt_out(num_gpus: int, judge: JudgeFacts, placement: str, gpus: dict[str, int]):
    config = config_for(MODEL, judge, machine(num_gpus))
    assert config.placement == placement
    held = {name: config.pool(name).members * config.pool(name).num_gpus for name in config.pool_names()}
    assert {name: number for name, number in held.items() if number} == gpus
    assert config.push.backend == ("nccl" if placement == "separate" else "disk")
    assert config.train.dtype == "bfloat16"


def test_rounds_stay_within_data_and_context():
    few = DataFacts("/t", "/u", None, 5, 3, (), ())
    config = config_for(TINY, ENDPOINT, machine(), few)
    assert (config.prompts.per_round, config.evaluate.num_prompts) == (5, 3)
    sizes = choose_sizes(TINY, DATA, 1900, 0)
    assert sizes.max_tokens == 2048 - 1900 - 16
    assert sizes.max_model_len == 2048
    with pytest.raises(ConfigError, match="the longest prompt has 2040 tokens"):
        choose_sizes(TINY, DATA, 2040, 0)
    unknown: Any = ModelFacts("org/unknown")
    assert config_for(unknown, ENDPOINT, machine()).generate.max_tokens == 512


@pytest.mark.parametrize("context", [2048, 4096, 32768, None])
def test_a_hosted_judge_has_room_for_the_steps_it_is_asked_about(context: int | None):
    """A quarter of a short context holds the verdicts on five steps, so it is asked about five at once."""
    judge, _ = judges.read_judge(None, None, None, ModelFacts("/models/short", context=context))
    assert judge.section["window_steps"] == (5 if context == 2048 else 8)
    config = config_for(ModelFacts("/models/short", None, 1_000_000, context), judge, machine())
    assert [line for line in judge_notes(config) if "max_tokens" in line] == []


def test_the_longest_row_is_one_forward():
    for model, where in ((TINY, machine()), (MODEL, machine()), (MODEL, machine(8))):
        sizes = choose_sizes(model, DATA, 1000, where.num_gpus)
        config = config_for(model, ENDPOINT, where)
        assert config.train.micro_batch_tokens >= 1000 or sizes.max_model_len >= 1000
        assert config.policy.engine_args["max_model_len"] >= 100 + config.generate.max_tokens
