"""The config: what is refused and how, overrides, and which settings are part of a run's identity."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from bcpg_cluster.config.embedded import resolve_asset
from bcpg_cluster.config.load import load_config, parse_config
from bcpg_cluster.config.run import Config
from bcpg_cluster.errors import ConfigError
from bcpg_cluster.stages.train.objective import OBJECTIVES, Bcpg, Dpo


def _set(content: dict[str, Any], key: str, value: Any) -> None:
    *sections, last = key.split("/")
    for section in sections:
        content = content.setdefault(section, {})
    content[last] = value


@pytest.mark.parametrize(
    ("key", "value", "named"),
    [
        ("weigh/betta", 0.5, ["weigh.betta", "did you mean weigh.beta for weigh.betta?"]),
        ("judges/llm/precison", 0.5, ["judges.llm.precision for judges.llm.precison"]),
        ("pools", {"rollout": {"menbers": 2}}, ["pools.rollout.members for pools.rollout.menbers"]),
        ("genrate", {}, ["generate for genrate"]),
        ("zzzz", 1, ["zzzz", "correct what is named above"]),
        ("generate/group_size", "many", ["generate.group_size", "'many'"]),
        ("generate/group_size", 1, ["generate.group_size", "at least 2", "got 1"]),
        ("generate/temperature", 0, ["generate.temperature", "greater than 0"]),
        ("generate/top_p", 1.5, ["generate.top_p"]),
        ("weigh/beta", 1.5, ["weigh.beta"]),
        ("weigh/mine", "suffix", ["weigh.mine"]),
        ("weigh/beta", -2, ["weigh.beta"]),
        ("weigh/min_verified_share", -0.1, ["weigh.min_verified_share"]),
        ("weigh/rule", "most", ["weigh.rule"]),
        ("weigh/truncated", "keep", ["weigh.truncated"]),
        ("weigh/flip_rate", 1.1, ["weigh.flip_rate"]),
        ("train/tau", 0.1, ["train.tau"]),  # it is an objective's
        ("train/packing", "tight", ["train.packing"]),
        ("train/early_stop_nats", -1, ["train.early_stop_nats"]),
        ("objective", {"tau": -1}, ["objective: ", "tau is at least 0, got -1"]),
        ("objective", {"tau": float("nan")}, ["objective: ", "tau is at least 0, got nan"]),
        ("objective", {"name": "dpo", "tau": 0.1}, ["objective.tau: unknown key for the objective 'dpo'"]),
        ("objective", {"name": "dpo", "beta": 0}, ["objective: ", "beta is above 0"]),
        ("objective", {"name": "dpo", "max_pairs": 0}, ["objective: ", "max_pairs is at least 1"]),
        ("objective", {"name": "dpo", "pairing": "random"}, ["objective.pairing", "'one_to_one'"]),
        ("objective", {"name": "grpo", "epsilon_low": 1.5}, ["objective: ", "at most 1"]),
        ("objective", {"name": "asymre", "offset": 0.1}, ["objective: ", "in [-1, 0]"]),
        ("objective", {"length": "constant"}, ["objective: ", "needs constant_tokens >= 1"]),
        ("objective", {"name": "ppo"}, ["objective.name: must be 'bcpg', ", "or 'weighted_reinforce' (got 'ppo')"]),
        ("objective", "dpo", ["objective", "'dpo'"]),
        ("train/zero_stage", 4, ["train.zero_stage"]),
        ("train/dtype", "float16", ["train.dtype"]),
        ("train/warmup_ratio", 1.0, ["train.warmup_ratio"]),
        ("train/min_learning_rate", 1.0, ["train", "min_learning_rate 1.0 is above learning_rate 0.0001"]),
        ("train/lora", {"rank": 0}, ["train.lora.rank", "at least 1"]),
        ("train/lora", {"alpha": 0}, ["train.lora.alpha", "greater than 0"]),
        ("train/lora", {"dropout": 1}, ["train.lora.dropout", "less than 1"]),
        ("train/lora", {"target_modules": []}, ["train.lora.target_modules", "at least one layer"]),
        ("train/lora", {"target_modules": ["q_proj", " "]}, ["train.lora.target_modules", "no name is empty"]),
        ("train/lora", {"target_modules": "q_proj"}, ["train.lora.target_modules", "'all-linear'"]),
        ("train/lora", {"r": 8}, ["train.lora.r"]),
        ("policy/engine_args", {"trust_remote_code": True}, ["policy", "set policy.trust_remote_code instead"]),
        ("policy/engine_args", {"revision": "v1"}, ["policy", "set policy.revision instead"]),
        (
            "judges/llm/engine_args",
            {"trust_remote_code": True},
            ["judges.llm", "set judges.<name>.trust_remote_code instead"],
        ),
        ("push/backend", "mpi", ["push.backend"]),
        ("push/tolerance_nats", 0, ["push.tolerance_nats"]),
        ("judges", {"llm": {"kind": "llm"}}, ["judges.llm", "a judge of kind 'llm' needs a model"]),
        ("judges", {"prm": {"kind": "prm"}}, ["judges.prm", "needs a model"]),
        ("judges", {}, ["no judge has role 'vote'"]),
        ("judges", {"truth": {"kind": "chain_truth", "role": "measure"}}, ["no judge has role 'vote'"]),
        ("judges", {"later": {"kind": "fake", "role": "spare"}}, ["no judge has role 'vote'"]),
        (
            "judges",
            {"llm": {"kind": "llm", "model": "m"}, "b": {"kind": "llm", "model": "n", "pool": "judge.llm"}},
            ["judges 'llm' and 'b' are both in pool 'judge.llm'", "another pool"],
        ),
        (
            "judges",
            {"prm": {"kind": "prm", "model": "m"}, "b": {"kind": "prm", "model": "m", "pool": "prm"}},
            ["judges 'prm' and 'b' are both in pool 'prm'"],
        ),
        ("judges", {"a.b": {"kind": "fake"}}, ["judge name 'a.b'"]),
        ("judges/llm/rule", "first_error", ["judges.llm.rule", "'propagated' or 'local'"]),
        ("judges/llm/rule", "local", ["llm: local, prm: propagated", "would mean neither", "role: spare"]),
        ("judges/llm/threshold", 1.1, ["judges.llm.threshold"]),
        ("pools", {"judge.gpt": {}}, ["nothing uses judge.gpt", "rollout"]),
        ("pools", {"rollout": {"members": 4, "max": 3}}, ["pools.rollout", "members is 4, above max, which is 3"]),
        ("pools", {"rollout": {"members": 1, "min": 2}}, ["pools.rollout", "below min, which is 2"]),
        ("pools", {"trainer": {"members": 2}}, ["'fake' is one process; set pools.trainer.members to 1"]),
        ("pools", {"cpu": {"memory_gib": 0}}, ["pools.cpu.memory_gib"]),
        ("policy/model", "fake:rubbish", ["'fake:rubbish' is not a fake", "fake:garbage"]),
        ("name", "../up", ["name"]),
        ("seed", -1, ["seed"]),
        ("evaluate/num_samples", 0, ["evaluate.num_samples"]),
        ("snapshots", {"keep_last": 0}, ["snapshots.keep_last"]),
    ],
)
def test_bad_values_are_named(fakes_content: Callable[[], dict[str, Any]], key: str, value: Any, named: list[str]):
    content = fakes_content()
    _set(content, key, value)
    with pytest.raises(ConfigError) as caught:
        parse_config(content, "some.yaml")
    text = str(caught.value)
    assert text.startswith("some.yaml is invalid")
    assert "rule:" in text
    assert "remedy:" in text
    for words in named:
        assert words in text


def test_all_mistakes_are_named_at_once(fakes_content: Callable[[], dict[str, Any]]):
    content = fakes_content()
    del content["policy"]
    content["generate"]["max_tokens"] = 0
    content["weigh"] = {"lambda": 0.5}
    with pytest.raises(ConfigError) as caught:
        parse_config(content, "x")
    for key in ("policy", "generate.max_tokens", "weigh.lambda"):
        assert key in caught.value.problem


def test_files_that_are_no_config(tmp_path: Path):
    with pytest.raises(ConfigError, match="does not exist"):
        load_config(tmp_path / "none.yaml")
    with pytest.raises(ConfigError, match="does not exist"):
        load_config(tmp_path)
    for name, content, problem in [
        ("torn.yaml", b"a: [1, 2", "not YAML"),
        ("binary.yaml", b"\xff\xfe\x00\x01", "not YAML"),
        ("list.yaml", b"- 1\n", "is not a mapping: "),
        ("empty.yaml", b"", "is empty"),
    ]:
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ConfigError, match=problem):
            load_config(tmp_path / name)


def test_overrides(config_file: Path):
    config = load_config(
        config_file,
        [
            "weigh.beta=-0.25",
            "seed=7",
            "pools.rollout.members=2",
            "pools.cpu.env.OMP_NUM_THREADS='1'",
            "evaluate.greedy=false",
            "segment.cues=[wait, hold on]",
            "evaluate.num_prompts=null",
            " policy.model = fake:garbage",
        ],
    )
    assert (config.weigh.beta, config.seed, config.pool("rollout").members) == (-0.25, 7, 2)
    assert config.pool("cpu").env == {"OMP_NUM_THREADS": "1"}
    assert (config.evaluate.greedy, config.evaluate.num_prompts) == (False, None)
    assert config.segment.cues == ("wait", "hold on")
    assert config.policy.model == "fake:garbage"


def test_an_objective_without_a_name_is_bcpg(fakes_content: Callable[[], dict[str, Any]], config_file: Path):
    content = fakes_content()
    for given, found in (({"tau": 0.25}, Bcpg(tau=0.25)), ({}, Bcpg()), ({"name": "bcpg"}, Bcpg())):
        content["objective"] = given
        assert parse_config(content, "x").objective == found
    del content["objective"]
    assert parse_config(content, "x").objective == Bcpg()
    assert load_config(config_file, ["objective.tau=0.5"]).objective == Bcpg(tau=0.5)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_every_objective_by_name_and_through_a_file(make_config: Callable[..., Config], config_file: Path, name: str):
    config = load_config(config_file, [f"objective={{name: {name}}}"])
    assert config.objective == OBJECTIVES[name]()
    again = parse_config(yaml.safe_load(yaml.safe_dump(config.model_dump(mode="json"))), "again")
    assert (again.objective, again.identity) == (config.objective, config.identity)
    assert (config.identity == load_config(config_file).identity) is (config.objective == make_config().objective)


def test_every_objective_has_an_identity_of_its_own(config_file: Path):
    configs = [load_config(config_file, [f"objective={{name: {name}}}"]) for name in OBJECTIVES]
    assert len({config.identity for config in configs}) == len(OBJECTIVES)


def test_options_of_an_objective_are_read(config_file: Path):
    config = load_config(config_file, ["objective={name: dpo, beta: 0.1, pairing: all_sampled, nll_weight: 1}"])
    assert config.objective == Dpo(beta=0.1, pairing="all_sampled", nll_weight=1.0)
    assert (config.objective.rows, config.objective.sequences_per_row) == ("pairs", 2)


def test_a_pool_whose_name_holds_a_dot_can_be_overridden(config_file: Path):
    real = ["judges.llm.kind=llm", "judges.llm.model=some/model"]
    config = load_config(config_file, [*real, "pools.judge.llm.members=3", "pools.judge.llm.resources.judge_gpu=1"])
    assert config.pool("judge.llm").members == 3
    assert config.pool("judge.llm").resources == {"judge_gpu": 1.0}
    assert list(config.pool_names()) == ["rollout", "judge.llm", "cpu", "trainer"]


@pytest.mark.parametrize("override", ["weigh.beta", "=1", "weigh..beta=1", "name.x=1", "weigh.beta.gamma=1"])
def test_overrides_that_cannot_be_read(config_file: Path, override: str):
    with pytest.raises(ConfigError):
        load_config(config_file, ["weigh.beta=0.5", override])


def test_the_order_of_overrides_counts(config_file: Path):
    assert load_config(config_file, ["seed=1", "seed=2"]).seed == 2


def test_where_judges_run(make_config: Callable[..., Config]):
    judges = {
        "llm": {"kind": "llm", "model": "m"},
        "prm": {"kind": "prm", "model": "m"},
        "second": {"kind": "prm", "model": "m"},
        "third": {"kind": "llm", "model": "m", "pool": "judge.llm", "view": "causal"},
        "truth": {"kind": "chain_truth", "role": "measure"},
    }
    config = make_config(judges=judges)
    assert [config.judge_pool(name) for name in judges] == ["judge.llm", "prm", "judge.second", "judge.llm", "cpu"]
    assert list(config.pool_names()) == ["rollout", "judge.llm", "prm", "judge.second", "cpu", "trainer"]
    assert config.voters == ("llm", "prm", "second", "third")


def test_identity_ignores_what_may_change_in_mid_run(make_config: Callable[..., Config]):
    base = make_config().identity
    assert make_config().identity == base
    for same in (
        {"pools": {"rollout": {"members": 3, "memory_gib": 2.0}, "cpu": {"lease_timeout_s": 5.0}}},
        {"name": "other"},
        {"snapshots": {"keep_last": 5}},
        {"push": {"deadline_s": 1.0}},
        {"train": {"checkpoint_every_steps": 7}},
        {"train": {"group_timeout_s": 7.0, "progress_timeout_s": 7.0, "heartbeat_timeout_s": 7.0}},
        {"train": {"lora": None}},
        {"verify": {"num_parallel": 3}},
        {"verify": {"tolerance": 1e-6, "overdue_is_wrong": True, "idle_limit_s": 10.0}},
    ):
        assert make_config(**same).identity == base, same


def test_identity_sees_what_decides_results(make_config: Callable[..., Config]):
    real = {"train": {"kind": "deepspeed"}}
    configs = [
        make_config(),
        make_config(weigh={"beta": 0.25}),
        make_config(seed=1),
        make_config(generate={"group_size": 4}),
        make_config(judges={"llm": {"kind": "fake", "threshold": 0.6}}),
        make_config(objective={"tau": 0.2}),
        make_config(objective={"tau": 0.2, "length": "token"}),
        make_config(weigh={"truncated": "mask"}),
        make_config(weigh={"flip_rate": 0.1}),
        make_config(verify={"tolerance": 1e-9}),
        make_config(verify={"overdue_is_wrong": False}),
        make_config(verify={"packages": ["numpy"]}),
        make_config(verify={"idle_limit_s": 5.0}),
        make_config(push={"tolerance_nats": 0.1}),
        make_config(prompts={"order": "stated"}),
        make_config(train={"lora": {}}),
        make_config(train={"lora": {"rank": 8}}),
        make_config(policy={"trust_remote_code": True}),
        make_config(policy={"revision": "v1"}),
        make_config(**real),
        make_config(**real, pools={"trainer": {"members": 2}}),
    ]
    assert len({config.identity for config in configs}) == len(configs)


def test_a_config_survives_its_own_file(make_config: Callable[..., Config]):
    config = make_config(pools={"rollout": {"members": 2}}, segment={"cues": ["wait"]})
    again = parse_config(yaml.safe_load(yaml.safe_dump(config.model_dump(mode="json"))), "again")
    assert again == config
    assert again.identity == config.identity


def test_a_config_is_frozen(make_config: Callable[..., Config]):
    with pytest.raises(Exception, match="frozen"):
        make_config().seed = 3  # type: ignore[misc]


def test_assets():
    assert resolve_asset("some/path") == "some/path"
    assert Path(resolve_asset("embedded:judge_prompts/taxonomy.toml")).is_file()
    with pytest.raises(ConfigError, match="'embedded:nothing' is not shipped"):
        resolve_asset("embedded:nothing")


CASCADE = {
    "llm": {"kind": "fake", "after": "prm"},
    "prm": {"kind": "fake"},
    "truth": {"kind": "chain_truth", "role": "measure"},
}


def test_a_judge_comes_behind_those_it_waits_for(make_config: Callable[..., Config]):
    config = make_config(judges=CASCADE)
    assert (config.judges["llm"].after, list(config.judge_pools)) == (("prm",), ["prm", "llm", "truth"])
    assert config.judged_after == {"llm": ("prm",)}
    assert make_config(judges={"llm": {"kind": "fake", "after": ["prm"]}}).judges["llm"].after == ("prm",)
    assert make_config(judges={"llm": {"kind": "fake", "after": None}}).judged_after == {}


@pytest.mark.parametrize(
    ("judges", "weigh", "said"),
    [
        ({}, {"rule": "majority"}, "would depend on the order of the judges"),
        ({"llm": {"kind": "fake", "after": "prn"}}, {}, "judges.llm.after names prn"),
        ({"prm": {"kind": "fake", "after": "llm"}}, {}, "wait for each other"),
        ({"truth": {"kind": "chain_truth", "role": "measure", "after": "prm"}}, {}, "judges.truth.after: only a judge"),
        ({"llm": {"kind": "fake", "after": "truth"}}, {}, "without a vote"),
    ],
)
def test_a_cascade_that_would_change_labels_is_refused(make_config: Callable[..., Config], judges, weigh, said):
    with pytest.raises(ConfigError, match=said):
        make_config(judges=CASCADE | judges, weigh=weigh)


def test_after_decides_results_only_where_it_is_set(make_config: Callable[..., Config]):
    content = make_config().deciding
    assert all("after" not in judge for judge in content["judges"].values())
    assert make_config(judges=CASCADE).deciding["judges"]["llm"]["after"] == ["prm"]
