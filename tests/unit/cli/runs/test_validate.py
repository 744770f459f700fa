"""`validate` names what a run would stumble over: prompts by their lengths, the reward function, judges' endpoints, bad rows."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bcpg_cluster.config.embedded import resolve_asset
from bcpg_cluster.config.invalid.keys import InvalidConfigError
from bcpg_cluster.config.load import change_config
from bcpg_cluster.config.run import Config
from bcpg_cluster.errors import ConfigError, DataError
from bcpg_cluster.prompts.sets import PromptSets
from bcpg_cluster.records import Prompt
from bcpg_cluster.run.preflight import notes
from bcpg_cluster.run.preflight.context import policy_context
from bcpg_cluster.run.preflight.lengths import MeasuredPrompt, length_notes, measure_sets
from bcpg_cluster.run.preflight.notes import machine_notes
from bcpg_cluster.run.preflight.preflight import with_further_faults
from bcpg_cluster.run.preflight.trials import probe_endpoints, try_reward
from bcpg_cluster.stages.generate.prompt_lengths import measure_prompts
from bcpg_cluster.store.manifest import read_manifest
from tests.judge_server import Server

MakeConfig = Callable[..., Config]
Bcpg = Callable[..., Any]
SMALL = [w for name in ("rollout", "cpu", "trainer") for w in ("--set", f"pools.{name}.memory_gib=0.001")]
TRAIN = [Prompt("short", "1 +1", "2"), Prompt("cramped", "1 +1" + " " * 86, "2"), Prompt("L", "1 +1" + " " * 95, "2")]
TEST = [Prompt("t", "2 +2", "4")]


def lay_down(folder: Path, *prompts: Prompt, bad: str = "") -> str:
    file = folder / "train.jsonl"
    rows = [{"prompt_id": p.prompt_id, "question": p.question, "answer": p.answer} for p in prompts]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows) + bad)
    return str(file)


# --- lengths


def test_every_prompt_is_compared_with_the_context(make_config: MakeConfig):
    """A fake's prompt has a token a character and one more: 5, 91 and 100. The context is 100, a response up to 20."""
    config = make_config(policy={"engine_args": {"max_model_len": 100}}, generate={"max_tokens": 20})
    train, test = measure_sets(config, PromptSets(TRAIN, TEST))
    assert train.too_long == (MeasuredPrompt("L", 100),)
    assert train.cramped == (MeasuredPrompt("cramped", 91),)
    assert train.longest == MeasuredPrompt("L", 100)
    assert (test.too_long, test.cramped) == ((), ())
    said = length_notes([train, test])
    assert "prompts.train: 1 prompt is as long as the policy's context of 100 tokens or longer" in said[0]
    assert "prompt_too_long" in said[0] and "'L' (100 tokens)" in said[0]
    assert "'cramped' (91 tokens)" in said[1]


def test_contexts_that_cannot_work(make_config: MakeConfig):
    config = make_config(policy={"engine_args": {"max_model_len": 20}}, generate={"max_tokens": 20})
    with pytest.raises(ConfigError, match=r"generate\.max_tokens is 20, and the policy's context has 20 tokens"):
        measure_sets(config, PromptSets(TRAIN, TEST))
    config = make_config(
        policy={"engine_args": {"max_model_len": 20}}, generate={"max_tokens": 5}, evaluate={"max_tokens": 30}
    )
    with pytest.raises(ConfigError, match=r"evaluate\.max_tokens is 30"):
        measure_sets(config, PromptSets(TRAIN, TEST))
    config = make_config(policy={"engine_args": {"max_model_len": 50}}, generate={"max_tokens": 5})
    with pytest.raises(DataError, match=r"none of the 2 prompts .* the longest has 100 \('L'\)"):
        measure_sets(config, PromptSets(TRAIN[1:], TEST))


def test_a_context_that_is_not_known_is_said(make_config: MakeConfig):
    said = length_notes(measure_sets(make_config(), PromptSets(TRAIN, TEST)))
    assert "context is not known here" in said[0]
    assert "the longest prompt has 100 tokens ('L')" in said[0]


def test_the_context_of_a_model_is_that_of_its_config(make_config: MakeConfig, tmp_path: Path):
    policy = {"kind": "vllm", "model": str(tmp_path)}
    for content, context in (
        ({"max_position_embeddings": 512}, 512),
        ({"text_config": {"max_position_embeddings": 64}}, 64),
        ({"max_position_embeddings": 512, "rope_scaling": {"factor": 4}}, 512),  # derived for engines without GPUs
        ({}, None),
    ):
        (tmp_path / "config.json").write_text(json.dumps(content))
        assert policy_context(make_config(policy=policy)) == context
    assert policy_context(make_config(policy=policy | {"engine_args": {"max_model_len": 99}})) == 99


def test_lengths_are_those_of_the_engines_prompts():
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(resolve_asset("embedded:chain/policy"))
    questions = [f"{n} +17 *3" for n in range(1100)]  # more than are taken at once
    rendered = [
        tokenizer.apply_chat_template([{"role": "user", "content": q}], add_generation_prompt=True, return_dict=False)
        for q in questions[::50]
    ]
    assert measure_prompts(tokenizer, questions)[::50] == [len(ids) for ids in rendered]


def test_the_command_names_the_long_prompt(bcpg: Bcpg, config_file: Path, tmp_path: Path):
    train = lay_down(tmp_path, *TRAIN)
    settings = [
        f"prompts.train={train}",
        "prompts.per_round=1",
        "policy.engine_args={max_model_len: 100}",
        "generate.max_tokens=20",
    ]
    asked = ["validate", "-c", config_file, *SMALL, *(w for setting in settings for w in ("--set", setting))]
    ended = bcpg(*asked)
    assert ended.code == 0, ended.err
    assert "'L' (100 tokens)" in ended.out
    assert "good, but a run drops prompts (1). 3 train" in ended.out
    found = json.loads(bcpg(*asked, "--json").out)
    assert (found["good"], found["num_train"]) == (True, 3)
    assert found["lengths"][0]["too_long"] == [{"prompt_id": "L", "num_tokens": 100}]


# --- bad rows


def test_all_bad_rows_are_listed_for_people_and_machines(bcpg: Bcpg, config_file: Path, tmp_path: Path):
    train = lay_down(tmp_path, *TRAIN[:2], bad='{torn\n{"prompt_id": "e", "question": "e", "answer": ""}\n')
    asked = ["validate", "-c", config_file, *SMALL, "--set", f"prompts.train={train}", "--set", "prompts.per_round=1"]
    ended = bcpg(*asked)
    assert ended.code == 2
    assert f"{train}, line 3: not JSON" in ended.err and f"{train}, line 4: answer is ''" in ended.err
    in_json = bcpg(*asked, "--json")
    found = json.loads(in_json.out)
    assert (in_json.code, found["good"]) == (2, False)
    assert [(row["source"], row["unit"], row["number"]) for row in found["error"]["rows"]] == [
        (train, "line", 3),
        (train, "line", 4),
    ]
    assert found["error"]["rule"] and found["error"]["remedy"]
    skipped = bcpg(*asked, "--skip-bad")
    assert skipped.code == 0, skipped.err
    assert "prompts.train: 2 rows are left out (1 x not JSON, 1 x answer is empty)" in skipped.out


def test_faults_of_several_kinds_are_found_by_one_look(bcpg: Bcpg, config_file: Path, tmp_path: Path):
    """A bad row and a model directory without a model: two faults, each with its remedy."""
    train = lay_down(tmp_path, *TRAIN[:2], bad="{torn\n")
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text('{"model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"]}')
    settings = [f"prompts.train={train}", "prompts.per_round=1", "policy.kind=vllm", f"policy.model={model}"]
    asked = ["validate", "-c", config_file, *SMALL, *(w for setting in settings for w in ("--set", setting))]
    ended = bcpg(*asked)
    assert ended.code == 2
    assert "2 things are wrong" in ended.err
    assert f"{train}, line 3: not JSON" in ended.err and str(model) in ended.err
    assert ended.err.count("remedy:") == 2
    found = json.loads(bcpg(*asked, "--json").out)
    assert [error["kind"] for error in found["errors"]] == ["BadRowsError", "DataError"]
    assert found["error"] == found["errors"][0]


def test_a_bad_key_does_not_end_the_look(bcpg: Bcpg, config_file: Path, tmp_path: Path):
    """Two bad keys, a bad row and a model directory without a model: the keys come first, and each is there by itself too."""
    train = lay_down(tmp_path, *TRAIN[:2], bad="{torn\n")
    model = tmp_path / "model"
    model.mkdir()
    settings = [
        f"prompts.train={train}",
        "policy.kind=vllm",
        f"policy.model={model}",
        "seed=-1",
        "evaluate.num_sampel=2",
    ]
    asked = ["validate", "-c", config_file, *(w for setting in settings for w in ("--set", setting))]
    ended = bcpg(*asked)
    assert ended.code == 2
    assert "3 things are wrong" in ended.err
    assert "seed: must be at least 0 (got -1)" in ended.err and "evaluate.num_sampel: unknown key" in ended.err
    assert f"{train}, line 3: not JSON" in ended.err and str(model) in ended.err
    errors = json.loads(bcpg(*asked, "--json").out)["errors"]
    assert [error["kind"] for error in errors] == ["InvalidConfigError", "BadRowsError", "DataError"]
    assert [key["key"] for key in errors[0]["keys"]] == ["seed", "evaluate.num_sampel"]


def test_a_fault_between_sections_leaves_the_problems_to_look_at(bcpg: Bcpg, config_file: Path, tmp_path: Path):
    train = lay_down(tmp_path, *TRAIN[:2], bad="{torn\n")
    ended = bcpg("validate", "-c", config_file, "--set", f"prompts.train={train}", "--set", "pools.spare={members: 1}")
    assert "2 things are wrong" in ended.err
    assert "nothing uses spare" in ended.err and f"{train}, line 3: not JSON" in ended.err


@pytest.mark.parametrize("section", [*Config.model_fields])
def test_nothing_follows_from_a_bad_key(section: str, fakes_content: Callable[[], dict[str, Any]]):
    """A key that is wrong is the one fault of a config that is good beside it, whichever section it stands in."""
    content = fakes_content()
    content |= {section: {"no_such_key": 1}}
    with pytest.raises(InvalidConfigError) as caught:
        change_config(content, [], "case")
    found = with_further_faults(caught.value, caught.value.rest, probe=True)
    assert found is caught.value, str(found)


def test_too_little_memory_is_among_the_faults(bcpg: Bcpg, config_file: Path, tmp_path: Path):
    train = lay_down(tmp_path, *TRAIN[:2], bad="{torn\n")
    asked = ["validate", "-c", config_file, "--set", f"prompts.train={train}", "--set", "pools.cpu.memory_gib=1e6"]
    ended = bcpg(*asked)
    assert "2 things are wrong" in ended.err
    assert f"{train}, line 3: not JSON" in ended.err and "the pools need 10000" in ended.err


def test_a_context_that_cannot_work_is_among_the_faults(bcpg: Bcpg, config_file: Path):
    settings = ["policy.engine_args={max_model_len: 20}", "generate.max_tokens=20", "pools.cpu.memory_gib=1000000.0"]
    ended = bcpg("validate", "-c", config_file, *(w for setting in settings for w in ("--set", setting)))
    assert "generate.max_tokens is 20, and the policy's context has 20 tokens" in ended.err
    assert "the pools need 10000" in ended.err


def test_a_run_records_what_it_left_out(bcpg: Bcpg, config_file: Path, tmp_path: Path):
    train = lay_down(tmp_path, *TRAIN[:1], bad="{torn\n")
    settings = [f"prompts.train={train}", "prompts.per_round=1", "evaluate.num_prompts=2", "evaluate.num_samples=1"]
    asked = ["iterate", "-n", "1", "--inline", "-c", config_file, "--run-dir", tmp_path / "run"]
    asked += [w for setting in settings for w in ("--set", setting)]
    assert bcpg(*asked).code == 2
    assert not (tmp_path / "run").exists()
    ended = bcpg(*asked, "--skip-bad")
    assert ended.code == 0, ended.err
    assert "prompts.train: 1 rows are left out (1 x not JSON)" in ended.out
    noted = read_manifest(tmp_path / "run").prompts
    assert noted is not None
    assert (noted["prompts.train"].num_prompts, noted["prompts.train"].skipped) == (1, {"not JSON": 1})


# --- the reward and the judges


def test_the_reward_is_tried_on_a_real_pair(make_config: MakeConfig):
    good = make_config(verify={"kind": "math"})
    assert try_reward(good, PromptSets(TRAIN, TEST)).endswith(
        "'short' that gives its gold answer gets verified, reward 1.0"
    )
    raises = make_config(verify={"kind": "function", "function": "operator:truediv"})  # of two texts
    with pytest.raises(
        DataError, match=r"verify\.function: no verdict on a response to 'short' with its gold answer '2'"
    ):
        try_reward(raises, PromptSets(TRAIN, TEST))


@pytest.mark.parametrize(
    "pattern",
    [
        r"answer (\S+)",
        r"The answer is (.+)$",
        r"####\s*(-?[0-9]+)",
        r"\\boxed\{(\d+)\}",
        r"<answer>(.*?)</answer>",
        r"= (\d+) EUR",
    ],
)
def test_the_trial_answers_as_the_pattern_asks(pattern: str, make_config: MakeConfig):
    config = make_config(verify={"kind": "exact", "answer_pattern": pattern})
    assert try_reward(config, PromptSets(TRAIN, TEST)).endswith("gets verified, reward 1.0")


def test_a_pattern_that_no_usual_form_matches_is_no_reward_of_0(make_config: MakeConfig):
    config = make_config(verify={"kind": "exact", "answer_pattern": r"[A-Z]{3}[0-9]{4}: (\d+)"})
    assert try_reward(config, PromptSets(TRAIN, TEST)) == (
        "verify: no usual form of an answer is one to verify.exact (no_answer for 'short'), so a right response was not tried; "
        "`bcpg-cluster grade` tries one of yours"
    )


def openai_judge(make_config: MakeConfig, url: str, monkeypatch: pytest.MonkeyPatch) -> Config:
    monkeypatch.setenv("A_KEY", "secret")
    endpoint = {"base_url": url, "api_key_env": "A_KEY"}
    return make_config(judges={"api": {"kind": "openai", "model": "m", "endpoint": endpoint}})


def test_endpoints_are_asked(make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch):
    server = Server()
    try:
        (line,) = probe_endpoints(openai_judge(make_config, server.url, monkeypatch))
        assert line == f"judges.api: {server.url} answers, verdict on one step: judged"
    finally:
        server.close()
    assert probe_endpoints(make_config()) == []


def test_an_endpoint_that_is_not_there(make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch):
    config = openai_judge(make_config, "http://127.0.0.1:9/v1", monkeypatch)
    with pytest.raises(DataError, match=r"judges\.api: http://127\.0\.0\.1:9/v1 gives no answer") as caught:
        probe_endpoints(config)
    assert "start the server" in caught.value.remedy


# --- the machine


def test_a_machine_that_is_too_small_is_said(make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(notes, "local_gpus", lambda: 1)
    monkeypatch.setattr(notes.os, "sched_getaffinity", lambda pid: {0, 1})
    config = make_config(pools={"rollout": {"members": 2, "num_cpus": 3.0, "num_gpus": 1.0}})
    gpus, processors = machine_notes(config)
    assert gpus.startswith("the pools ask for 2 GPUs at once, and this machine has 1")
    assert processors.startswith("the pools ask for 6.02 processors at once, and this machine has 2")
    assert len(machine_notes(config.model_copy(update={"placement": "colocated"}))) == 2
