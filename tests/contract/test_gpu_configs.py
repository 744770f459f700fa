"""The configs for GPUs, which were never run on one: their vendor options pass the vendors' own parsers."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import pytest

from bcpg_cluster.config.load import load_config, shipped_configs
from bcpg_cluster.config.run import Config
from bcpg_cluster.config.section import num_ranks
from bcpg_cluster.new_config.facts import JudgeFacts, ModelFacts
from bcpg_cluster.new_config.proposal import judge_pool
from bcpg_cluster.run.build.footprint import ask_of
from bcpg_cluster.run.build.settings import train_settings
from bcpg_cluster.run.preflight.models import check_vendor_options
from bcpg_cluster.stages.generate.vllm_options import with_workers
from tests.unit.new_config.test_sizes import ENDPOINT, HOSTED, MODEL, config_for, machine

pytestmark = pytest.mark.engine

FOR_GPUS = [name for name in shipped_configs() if name not in ("laptop", "real-llm-cpu", "ablations/chain")]


def engines(config: Config) -> dict[str, dict[str, Any]]:
    return {pool: args for pool in config.pool_names() if (args := config.engine_args(pool))}


@pytest.mark.parametrize("name", FOR_GPUS)
def test_vendors_take_the_options(name: str):
    config = load_config(name)
    check_vendor_options(config)
    for pool, args in engines(config).items():
        assert ask_of(config, pool).total()["GPU"] == config.pool(pool).members * num_ranks(args)
    assert all(config.pool(pool).num_gpus for pool in (*engines(config), "trainer"))


@pytest.mark.parametrize("name", ["one-gpu", "small-cluster", "r1-distill-qwen-14b"])
def test_the_arguments_as_the_engines_get_them(name: str):
    from vllm.config import WeightTransferConfig
    from vllm.engine.arg_utils import AsyncEngineArgs, EngineArgs

    config = load_config(name)
    for args in engines(config).values():
        given = with_workers(args)
        for kind in (EngineArgs, AsyncEngineArgs):
            made = kind(model=".", **given)
            assert {key: getattr(made, key) for key in given} == given
        assert set(given) <= {field.name for field in fields(EngineArgs)}
        assert given.get("distributed_executor_backend") == ("mp" if num_ranks(args) > 1 else None)
    if config.push.backend != "disk":
        assert WeightTransferConfig(backend=config.push.backend).backend == "nccl"


LARGE = ModelFacts("org/large", None, 14_000_000_000, 32768)
LAYOUTS = [
    (num_gpus, model, judge) for num_gpus in (1, 2, 3, 8) for model in (MODEL, LARGE) for judge in (ENDPOINT, HOSTED)
]  # colocated and beside each other, ZeRO-2 and ZeRO-3


@pytest.mark.parametrize(
    ("num_gpus", "model", "judge"), LAYOUTS, ids=lambda part: getattr(part, "name", None) or str(part)[:40]
)
def test_vendors_take_what_init_writes_for_gpus(num_gpus: int, model: ModelFacts, judge: JudgeFacts):
    from deepspeed.runtime.config import DeepSpeedConfig
    from vllm.engine.arg_utils import AsyncEngineArgs

    from bcpg_cluster.stages.train.deepspeed.config import deepspeed_config

    config = config_for(model, judge, machine(num_gpus))
    check_vendor_options(config)
    for pool in (*engines(config), *([judge_pool(judge)] if judge is HOSTED else [])):
        args = config.engine_args(pool)
        made = AsyncEngineArgs(model=".", **with_workers(args))
        assert {key: getattr(made, key) for key in args} == args
        assert config.pool(pool).num_gpus == num_ranks(args) == 1
    read = DeepSpeedConfig(deepspeed_config(train_settings(config, 1)))
    assert read.zero_config.stage == (3 if model is LARGE else 2)
    assert read.bfloat16_config.enabled


def test_the_papers_run_is_zero_3_in_bfloat16_over_32_gpus():
    from deepspeed.runtime.config import DeepSpeedConfig

    from bcpg_cluster.stages.train.deepspeed.config import deepspeed_config

    config = load_config("r1-distill-qwen-14b")
    read = DeepSpeedConfig(deepspeed_config(train_settings(config, 1)))
    assert (read.zero_config.stage, read.bfloat16_config.enabled) == (3, True)
    assert read.zero_config.overlap_comm
    assert sum(ask_of(config, pool).total().get("GPU", 0.0) for pool in config.pool_names()) == 64
    assert config.train.micro_batch_tokens == 32768
    assert (config.train.epochs, config.train.batch_sequences, config.generate.group_size) == (8, 512, 32)
