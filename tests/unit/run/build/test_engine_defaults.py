"""engine_defaults.py: what a silent config gets on a machine without GPUs, and that it never outvotes what is said."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bcpg_cluster.cluster.leases import InFlight
from bcpg_cluster.cluster.placement import ClusterNodes
from bcpg_cluster.config.load import load_config
from bcpg_cluster.config.run import Config
from bcpg_cluster.run.build.default_config import place
from bcpg_cluster.run.build.engine_defaults import (
    default_notes,
    derived_options,
    engine_options,
    requests_at_once,
    with_member_cpus,
)
from bcpg_cluster.run.build.workforce import in_flight, most_leases

MakeConfig = Callable[..., Config]
# keys and values: 2 heads of 16 numbers, a layer 256 bytes a token in float32
SHAPE = {
    "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
    "intermediate_size": 128, "vocab_size": 1000,
}  # fmt: skip


def model_directory(folder: Path, **config: Any) -> str:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({**SHAPE, **config}))
    return str(folder)


@pytest.fixture
def silent(make_config: MakeConfig, tmp_path: Path) -> Callable[..., Config]:
    """A config that says nothing of engines: a policy of 32,768 positions, and a judge on the same model."""
    model = model_directory(tmp_path / "model", max_position_embeddings=32_768)

    def make(**sections: Any) -> Config:
        policy = {"kind": "vllm", "model": model, **sections.pop("policy", {})}
        judge = {"kind": "llm", "model": model, "max_tokens": 500, **sections.pop("judge", {})}
        generate = {"max_tokens": 1000, **sections.pop("generate", {})}
        train = {"kind": "deepspeed", **sections.pop("train", {})}
        return make_config(policy=policy, judges={"grader": judge}, generate=generate, train=train, **sections)

    return make


def test_a_policy_without_gpus_gets_what_vllm_needs_there(silent: Callable[..., Config]):
    context = 3072  # 2,048 for the problem and 1,000 for the response, in steps of 256
    assert engine_options(silent(), "rollout") == {
        "dtype": "float32",
        "enforce_eager": True,
        "block_size": 32,
        "enable_chunked_prefill": False,
        "max_model_len": context,
        "kv_cache_memory_bytes": 64_000_000,  # sixteen contexts of so small a model take less
    }


def test_a_judge_has_room_for_its_answer_too(silent: Callable[..., Config]):
    # 2,048 for the instructions, 2,048 for the problem, 1,000 for the response, 500 for the answer
    assert engine_options(silent(), "judge.grader")["max_model_len"] == 5632


def test_what_the_config_says_always_wins(silent: Callable[..., Config]):
    said = {
        "dtype": "bfloat16",
        "enforce_eager": False,
        "max_model_len": 99,
        "block_size": 64,
        "enable_chunked_prefill": True,
    }
    options = engine_options(silent(policy={"engine_args": {**said, "kv_cache_memory_bytes": 5}}), "rollout")
    assert options == {**said, "kv_cache_memory_bytes": 5}
    # A share of the machine is another way to say how large the cache is.
    assert "kv_cache_memory_bytes" not in engine_options(
        silent(policy={"engine_args": {"gpu_memory_utilization": 0.2}}), "rollout"
    )


def test_the_policys_engine_computes_in_the_trainers_dtype_with_and_without_gpus(silent: Callable[..., Config]):
    for pools in ({}, {"rollout": {"num_gpus": 1}}):
        config = silent(train={"dtype": "bfloat16"}, pools=pools)
        assert engine_options(config, "rollout")["dtype"] == "bfloat16"
    assert engine_options(config, "rollout") == {"dtype": "bfloat16"}  # a GPU needs nothing else
    assert derived_options(silent(pools={"judge.grader": {"num_gpus": 1}}), "judge.grader") == {}


def test_the_context_stays_within_the_model_and_one_step(make_config: MakeConfig, tmp_path: Path, silent: Any):
    short = model_directory(tmp_path / "short", max_position_embeddings=512)
    assert engine_options(silent(policy={"model": short}), "rollout")["max_model_len"] == 512
    one_step = silent(policy={"engine_args": {"max_num_batched_tokens": 700}})
    assert engine_options(one_step, "rollout")["max_model_len"] == 700
    unknown = engine_options(silent(policy={"model": "org/not-here"}), "rollout")
    assert "max_model_len" not in unknown
    assert unknown["kv_cache_memory_bytes"] == 1_000_000_000


@pytest.mark.parametrize(
    ("num_layers", "num_bytes"),
    [  # a context and a block are 3,104 tokens, of 256 bytes a layer: 794,624 bytes
        (50, 16 * 50 * 794_624),  # sixteen contexts
        (1200, 1_000_000_000),  # sixteen would take more than a gigabyte
        (3000, 3000 * 794_624),  # one does: that one
    ],
)
def test_the_cache_holds_sixteen_contexts_within_its_bounds(
    silent: Any, tmp_path: Path, num_layers: int, num_bytes: int
):
    deep = model_directory(tmp_path / "deep", max_position_embeddings=9000, num_hidden_layers=num_layers)
    assert engine_options(silent(policy={"model": deep}), "rollout")["kv_cache_memory_bytes"] == num_bytes


def test_pools_without_vllm_and_shipped_configs_get_nothing(make_config: MakeConfig):
    config = make_config()
    assert [derived_options(config, pool) for pool in config.pool_names()] == [{}] * len(tuple(config.pool_names()))
    for name in ("laptop", "real-llm-cpu"):  # they say all of it
        shipped = load_config(name)
        assert all(engine_options(shipped, pool) == shipped.engine_args(pool) for pool in shipped.pool_names())
        assert default_notes(shipped) == []


# --- CPUs of members


def nodes(*cpus: float, largest: Any = ()) -> ClusterNodes:
    there = [{"CPU": number} for number in cpus]
    return ClusterNodes(there, there, largest)


def cpus_of(config: Config) -> dict[str, float]:
    return {name: config.pool(name).cpus for name in config.pool_names()}


def test_members_share_the_cpus_of_a_small_machine(make_config: MakeConfig):
    config = make_config(pools={"rollout": {"members": 2, "max": 3}})
    assert list(config.pool_names()) == ["rollout", "cpu", "trainer"]
    assert place(config, nodes(2)).verdict == "fits"  # 5 members at most on 2 CPUs
    assert set(cpus_of(with_member_cpus(config, nodes(2))).values()) == {0.4}
    assert set(cpus_of(with_member_cpus(config, nodes(16))).values()) == {1.0}
    assert set(cpus_of(with_member_cpus(config, nodes(2, largest=({"CPU": 64.0},)))).values()) == {1.0}
    assert set(cpus_of(with_member_cpus(config, nodes(2, largest=None))).values()) == {1.0}


def test_a_share_is_of_what_the_config_leaves(make_config: MakeConfig):
    config = make_config(pools={"rollout": {"num_cpus": 1.5}})
    shared = cpus_of(with_member_cpus(config, nodes(2)))
    assert shared == {"rollout": 1.5, "cpu": 0.25, "trainer": 0.25}
    greedy = make_config(pools={"rollout": {"num_cpus": 8}})
    assert cpus_of(with_member_cpus(greedy, nodes(2)))["cpu"] == 0.01
    assert place(greedy, nodes(2)).verdict == "lacks"


def test_pools_that_take_turns_share_with_fewer(make_config: MakeConfig):
    config = make_config(placement="colocated")
    assert set(cpus_of(with_member_cpus(config, nodes(2))).values()) == {1.0}  # a turn and the cpu pool
    assert set(cpus_of(with_member_cpus(config, nodes(1))).values()) == {0.5}


def test_the_identity_knows_nothing_of_it(silent: Any):
    config = silent()
    assert with_member_cpus(config, nodes(1)).identity == config.identity
    assert "engine_args" in config.deciding["policy"] and config.deciding["policy"]["engine_args"] == {}


def test_notes_say_what_was_derived(silent: Any, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    told = default_notes(silent())
    assert any(line.startswith("engines of rollout, where engine_args say nothing:") for line in told)
    assert "dtype float32" in told[0] and "max_model_len 3072" in told[0]
    assert told[-1].startswith("num_cpus of a member on this machine, where its pool says nothing: 0.5")


def test_a_judge_pools_leases_follow_what_its_engine_takes_at_once(make_config: Callable[..., Config]):
    endpoint = {"base_url": "http://h/v1", "concurrency": 12}
    config = make_config(
        judges={
            "llm": {"kind": "llm", "model": "m", "engine_args": {"max_num_seqs": 48, "max_model_len": 64}},
            "far": {"kind": "openai", "model": "m", "endpoint": endpoint},
            "prm": {"kind": "prm", "model": "p"},
            "fast": {"kind": "prm", "model": "p", "engine": "vllm"},
        },
        pools={"judge.llm": {"max_leases_per_member": 9}},
    )
    pools = ("judge.llm", "judge.far", "prm", "judge.fast", "cpu", "rollout")
    assert [requests_at_once(config, pool) for pool in pools] == [48, 12, None, 256, None, None]
    assert in_flight(config, "judge.llm") == InFlight(48, 9) and in_flight(config, "prm") is None
    assert [most_leases(config, pool) for pool in pools] == [9, 32, 2, 32, 2, 2]


@pytest.mark.parametrize(("num_gpus", "follows"), [(1, InFlight(64, 32, expected=32)), (0, None)])
def test_rollout_leases_follow_an_engine_on_gpus_from_the_start(
    num_gpus: float, follows: InFlight | None, make_config: Callable[..., Config]
):
    options = {"max_num_seqs": 64, "max_model_len": 64}
    config = make_config(
        policy={"kind": "vllm", "model": "m", "engine_args": options},
        generate={"prompts_per_shard": 4, "group_size": 8},
        pools={"rollout": {"num_gpus": num_gpus}},
    )
    assert in_flight(config, "rollout") == follows
    assert most_leases(config, "rollout") == (32 if follows else 2)  # a thread each


def test_engines_of_fakes_have_no_batch_to_follow(make_config: Callable[..., Config]):
    assert in_flight(make_config(), "rollout") is None
