"""run/build: what is looked at before anything heavy starts, and the small translations."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bcpg_cluster.config.run import Config
from bcpg_cluster.errors import ConfigError, DataError, EngineError
from bcpg_cluster.run.build import engines, members
from bcpg_cluster.run.build.footprint import check_memory, free_memory_gib, local_resources
from bcpg_cluster.run.build.judges import judge_engine_args, load_judge_prompt, model_digest
from bcpg_cluster.run.build.segmenters import step_rules
from bcpg_cluster.run.build.settings import train_settings
from bcpg_cluster.run.preflight.models import check_models, check_vendor_options
from bcpg_cluster.run.preflight.prompts import read_all_prompts
from bcpg_cluster.stages.fakes.generator import FakeGenerator
from bcpg_cluster.stages.fakes.skill import SNAPSHOT_FILE, skill_digests
from bcpg_cluster.stages.segment.structure import REFLECTION_CUES
from bcpg_cluster.stages.train.protocol import LoraSettings

MakeConfig = Callable[..., Config]


def test_memory(make_config: MakeConfig):
    pools = {"rollout": {"members": 4, "memory_gib": 2.0}, "cpu": {"memory_gib": 0.5}, "trainer": {"memory_gib": 1.5}}
    config = make_config(pools=pools)  # 8 + 0.5 + 1.5; fake judges live in the cpu pool
    check_memory(config, 10.0)
    with pytest.raises(ConfigError) as caught:
        check_memory(config, 9.9)
    assert "the pools need 10.0 GiB, this machine has 9.9 GiB free" in caught.value.problem
    assert "rollout: 4 x 2 GiB" in caught.value.problem
    assert "pools.<name>.members" in caught.value.remedy


def test_memory_of_this_machine():
    assert 0.0 < free_memory_gib() < 10_000


def test_resources_of_a_local_ray_fit_every_pool_at_its_largest(make_config: MakeConfig):
    pools = {
        "rollout": {"members": 1, "max": 3, "resources": {"rollout_slot": 1, "shared": 0.5}},
        "cpu": {"members": 2, "resources": {"shared": 1}},
    }
    assert local_resources(make_config(pools=pools)) == {"rollout_slot": 3.0, "shared": 3.5}
    assert local_resources(make_config()) == {}


def checkpoint(folder: Path, *names: str) -> str:
    folder.mkdir()
    for name in names:
        (folder / name).write_text("{}")
    return str(folder)


@pytest.mark.parametrize(
    ("files", "problem"),
    [
        ((), "lacks config.json and a tokenizer"),
        (("config.json",), "lacks a tokenizer"),
        (("tokenizer.json",), "lacks config.json"),
        (("config.json", "tokenizer.json"), None),
        (("config.json", "tokenizer.model"), None),
        (("config.json", "vocab.json"), None),
    ],
)
def test_model_directories(tmp_path: Path, make_config: MakeConfig, files: tuple[str, ...], problem: str | None):
    path = checkpoint(tmp_path / "model", *files)
    policy = make_config(policy={"kind": "vllm", "model": path})
    judge = make_config(judges={"j": {"kind": "prm", "model": path}})
    for config, key in ((policy, "policy.model"), (judge, "judges.j.model")):
        if problem is None:
            check_models(config)
            continue
        with pytest.raises(DataError) as caught:
            check_models(config)
        assert f"{key}: {path} {problem}" in caught.value.problem


def test_models_that_are_not_here(tmp_path: Path, make_config: MakeConfig):
    for model in (str(tmp_path / "none"), "./none", "~/none"):
        with pytest.raises(DataError, match="is not a directory"):
            check_models(make_config(policy={"kind": "vllm", "model": model}))
    (tmp_path / "file").write_text("x")
    with pytest.raises(DataError, match="is not a directory"):
        check_models(make_config(policy={"kind": "vllm", "model": str(tmp_path / "file")}))
    with pytest.raises(ConfigError, match="is not shipped"):
        check_models(make_config(policy={"kind": "vllm", "model": "embedded:none"}))
    check_models(make_config())  # fakes have no files


def test_models_of_the_hub(tmp_path: Path, make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch):
    """What the hub says of a name its own client reports later; a hub that cannot be asked is said at once."""
    from huggingface_hub import HfApi, constants

    config = make_config(policy={"kind": "vllm", "model": "qwen/Qwen3-0.6B"})

    def no_network(*_: object, **__: object) -> None:
        raise ConnectionError("no route")

    monkeypatch.setattr(HfApi, "model_info", no_network)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)  # said by the person: the caches are all there is
    check_models(config)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=r"qwen/Qwen3-0\.6B is here, and the hub.*no route") as caught:
        check_models(config)
    assert "HF_HUB_OFFLINE" in caught.value.remedy
    (tmp_path / "qwen").mkdir()
    checkpoint(tmp_path / "qwen" / "Qwen3-0.6b", "config.json", "tokenizer.json")
    with pytest.raises(DataError) as caught:
        check_models(config)
    assert caught.value.remedy == "did you mean qwen/Qwen3-0.6b?"
    monkeypatch.setattr(HfApi, "model_info", lambda *_, **__: None)
    check_models(config)


def test_judge_prompts(tmp_path: Path):
    for name in ("embedded:taxonomy", "embedded:compact"):
        assert load_judge_prompt(name).step
    with pytest.raises(ConfigError, match="is not shipped"):
        load_judge_prompt("embedded:none")
    for name, content in (("bad.toml", "name = "), ("short.toml", 'name = "x"'), ("binary.toml", "\x00")):
        (tmp_path / name).write_text(content)
        with pytest.raises(ConfigError, match="judge prompt") as caught:
            load_judge_prompt(str(tmp_path / name))
        assert name in caught.value.problem
    with pytest.raises(ConfigError, match=r"none\.toml"):
        load_judge_prompt(str(tmp_path / "none.toml"))
    (tmp_path / "latin.toml").write_bytes(b'name = "\xff"')
    with pytest.raises(ConfigError, match="judge prompt"):
        load_judge_prompt(str(tmp_path / "latin.toml"))


def test_all_prompts_are_looked_at(tmp_path: Path, make_config: MakeConfig, prompt_files: tuple[Path, Path]):
    sets = read_all_prompts(make_config())
    assert (len(sets.train), len(sets.test), sets.more_tests) == (40, 24, {})
    with pytest.raises(DataError, match=r"prompts\.more_tests\.again: prompt_id .* is also in test"):
        read_all_prompts(make_config(prompts={"more_tests": {"again": str(prompt_files[1])}}))
    with pytest.raises(DataError, match="40 test questions are also in the train file"):
        read_all_prompts(make_config(prompts={"more_tests": {"seen": str(prompt_files[0])}}))
    with pytest.raises(DataError, match="per_round is 41, the train file holds 40"):
        read_all_prompts(make_config(prompts={"per_round": 41}))
    with pytest.raises(DataError, match="40 test questions are also in the train file"):
        read_all_prompts(make_config(prompts={"test": str(prompt_files[0])}))
    with pytest.raises(DataError, match="does not exist"):
        read_all_prompts(make_config(prompts={"train": str(tmp_path / "none.jsonl")}))


def test_step_rules(make_config: MakeConfig):
    assert step_rules(make_config().segment).cues == REFLECTION_CUES
    rules = step_rules(
        make_config(segment={"cues": ["aha"], "split_on": "paragraph", "min_tokens": 2, "max_tokens": 9}).segment
    )
    assert (rules.cues, rules.split_on, rules.min_tokens, rules.max_tokens) == (("aha",), "paragraph", 2, 9)


def test_every_round_trains_by_a_seed_of_its_own(make_config: MakeConfig):
    config = make_config(seed=2, objective={"tau": 0.3}, train={"zero_stage": 1})
    assert [train_settings(config, round_).seed for round_ in (1, 2)] == [2001, 2002]
    settings = train_settings(config, 1)
    assert (settings.objective.tau, settings.zero_stage, settings.checkpoint_every_steps) == (0.3, 1, 2)
    assert settings.deepspeed is None
    assert train_settings(make_config(train={"deepspeed": {"a": 1}}), 1).deepspeed == {"a": 1}


def test_adapters_and_foreign_code_reach_the_trainer_and_the_engines(make_config: MakeConfig):
    plain = train_settings(make_config(), 1)
    assert (plain.lora, plain.revision, plain.trust_remote_code) == (None, None, False)
    policy = {"kind": "vllm", "model": "o/m", "revision": "v1", "trust_remote_code": True, "engine_args": {"seed": 3}}
    judge = {"kind": "prm", "model": "o/p", "engine_args": {"revision": "v2"}}
    config = make_config(
        policy=policy, judges={"p": judge, "q": {**judge, "trust_remote_code": True}}, train={"lora": {"rank": 4}}
    )
    settings = train_settings(config, 1)
    assert settings.lora == LoraSettings(rank=4, alpha=32.0, dropout=0.0, target_modules=None)
    assert (settings.revision, settings.trust_remote_code) == ("v1", True)
    named = make_config(train={"lora": {"target_modules": ["q_proj", "v_proj"]}})
    assert train_settings(named, 1).lora == LoraSettings(target_modules=("q_proj", "v_proj"))
    foreign = {"seed": 3, "revision": "v1", "tokenizer_revision": "v1", "trust_remote_code": True}
    assert foreign.items() <= engines.policy_engine_args(config).items()
    assert engines.policy_engine_args(make_config()) == {}
    assert judge_engine_args(config, "p")["revision"] == "v2"
    assert "trust_remote_code" not in judge_engine_args(config, "p")
    assert judge_engine_args(config, "q")["trust_remote_code"] is True


def test_layers_for_adapters_are_looked_for_before_anything_starts(make_config: MakeConfig):
    policy = {"kind": "vllm", "model": "embedded:chain/policy"}
    for targets in ("all-linear", ["q_proj", "mlp.down_proj"]):
        check_models(make_config(policy=policy, train={"kind": "torch", "lora": {"target_modules": targets}}))
    wrong = make_config(policy=policy, train={"kind": "torch", "lora": {"target_modules": ["c_attn"]}})
    with pytest.raises(ConfigError, match="has no c_attn") as caught:
        check_models(wrong)
    assert "q_proj" in caught.value.remedy


def test_a_model_is_named_by_its_content(tmp_path: Path):
    path = checkpoint(tmp_path / "model", "config.json")
    first = model_digest(path)
    assert first.startswith("model@")
    assert model_digest(path) == first
    (tmp_path / "model" / "config.json").write_text("{ }")
    assert model_digest(path) != first
    assert model_digest("Qwen/Qwen3-0.6B") == "Qwen/Qwen3-0.6B"


def test_members_host_the_stages_of_their_pool(tmp_path: Path, make_config: MakeConfig):
    content = make_config().model_dump(mode="json")
    worker = members.host_cpu(content)
    assert set(worker._stages) == {
        "verify",
        "verify_evaluation",
        "segment",
        "weigh",
        *(f"judge.{j}" for j in _cpu_judges()),
    }
    rollout: Any = members.host_rollout(content, 4, None, {}, 0)
    assert set(rollout._stages) == {"generate", "evaluate"}
    assert rollout.engine_call("policy_version") == 4
    trainer = members.host_trainer(content, 0, 1)
    assert trainer.ping() == "ready"


def test_a_member_that_starts_from_other_weights_than_were_written_does_not_start(
    tmp_path: Path, make_config: MakeConfig
):
    content = make_config().model_dump(mode="json")
    (tmp_path / SNAPSHOT_FILE).write_text('{"skill": 0.7}')
    worker: Any = members.host_rollout(content, 1, str(tmp_path), skill_digests(0.7), 0)
    assert (worker.engine_call("policy_version"), worker.engine_call("skill")) == (1, 0.7)
    with pytest.raises(EngineError, match=r"rollout/3 loaded .*1 parameters differ from the snapshot \(\['skill'\]\)"):
        members.host_rollout(content, 1, str(tmp_path), skill_digests(0.8), 3)


def _cpu_judges() -> tuple[str, ...]:
    return ("llm", "prm", "truth")  # fakes and the known truth need no engine


@pytest.mark.parametrize(("name", "output"), [("fake", None), ("fake:garbage", "garbage"), ("fake:endless", "endless")])
def test_fakes_with_faults(make_config: MakeConfig, name: str, output: str | None):
    engine = engines.make_rollout_engine(make_config(policy={"model": name}), 0, 0)
    assert isinstance(engine, FakeGenerator)
    assert engine._faults.output == output
    engine.load_snapshot(name, 1)  # the base model, after a round that taught nothing
    assert engine.policy_version == 1


def test_vendor_options_of_a_run_without_vendors_import_none(make_config: MakeConfig):
    check_vendor_options(make_config())
