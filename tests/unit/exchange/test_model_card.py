"""The model card, with numbers worked out by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import yaml

from bcpg_cluster.config.run import Config
from bcpg_cluster.exchange.policy.export_policy import read_front_matter
from bcpg_cluster.exchange.policy.model_card import CardFacts, public_name, render_model_card, with_interval
from bcpg_cluster.store.made_with import MadeWith
from bcpg_cluster.store.manifest import ManifestState
from bcpg_cluster.store.reports import PromptDigest, RoundReport

QUALITY = {"precision": 0.9407, "recall": 0.5, "true_share": 0.8, "count": 4318.0}
JUDGES = {
    "quality": {name: {"truth": {"tokens": QUALITY, "steps": QUALITY}} for name in ("llm", "consensus")},
    "agreement": {"llm+prm": {"agreement": 0.75, "kappa": 0.5, "steps": 400.0}},
    "abstained": {},
}


def report(round_: int, accuracy: float, **more: Any) -> RoundReport:
    content = {"round": round_, "accuracy": accuracy, "stderr": 0.01, "accuracy_greedy": 0.5, "stderr_greedy": 0.02}
    return RoundReport.read({**content, "num_problems": 400, "samples_per_problem": 4, **more})


@pytest.fixture
def config(make_config: Callable[..., Config]) -> Config:
    content = make_config().model_dump(mode="json")["prompts"]
    prompts = {**content, "train": "openai/gsm8k", "test": "/secret/place/held-out.jsonl"}
    judges = {
        "llm": {"kind": "llm", "model": "/secret/models/judge-7b"},
        "prm": {"kind": "prm", "model": "org/prm", "threshold": 0.8, "convention": "qwen"},
        "truth": {"kind": "chain_truth", "role": "measure"},
    }
    return make_config(
        policy={"kind": "vllm", "model": "org/base"}, prompts=prompts, judges=judges, name="mine", seed=7
    )


@pytest.fixture
def state() -> ManifestState:
    samples = {"asked": 1024, "kept": 912, "dropped": {"all_correct": 104, "all_wrong": 8, "overlong": 0}}
    train = {"steps": 90.0, "tokens": 462792.0}
    round_2 = report(2, 0.7, samples=samples, train=train, mined_share=0.797, judges=JUDGES)
    round_2 = RoundReport.read({**round_2.plain(), "change_from_base": {"accuracy": {"mean": 0.1, "stderr": 0.05}}})
    made = {
        "versions": {"bcpg-cluster": "0.1.0", "torch": "2.13.0"},
        "device": {"architecture": "x86_64", "cpu": "A CPU", "num_cpus": 8, "gpus": ["A GPU"]},
        "files": {"policy.model": {"source": "org/base", "sha256": "ab12", "num_bytes": 9, "is_sampled": False}},
    }
    return ManifestState(
        created={"identity": "e388c5b3", "name": "mine", "program_version": "0.1.0"},
        reports={0: report(0, 0.6), 1: report(1, 0.995), 2: round_2, 3: report(3, 0.1)},
        prompts={
            "prompts.train": PromptDigest(
                source="openai/gsm8k", num_prompts=7473, sha256="eb3b", skipped={"no answer": 2}
            )
        },
        made_with=[MadeWith.read(made)],
    )


def card(config: Config, state: ManifestState, **facts: Any) -> str:
    return render_model_card(config, state, CardFacts(2, {"bfloat16": 1234567}, True, **facts))


def test_the_head_is_the_hubs(config: Config, state: ManifestState) -> None:
    base = {"license": "other", "license_name": "base-licence", "language": ["en"], "tags": ["theirs"]}
    head = read_front_matter(card(config, state, base_head=base))
    assert (head["base_model"], head["datasets"], head["library_name"]) == (
        "org/base",
        ["openai/gsm8k"],
        "transformers",
    )
    assert (head["license"], head["license_name"], head["language"]) == ("other", "base-licence", ["en"])
    (result,) = head["model-index"][0]["results"]
    assert [(metric["type"], metric["value"]) for metric in result["metrics"]] == [
        ("accuracy", 70.0),
        ("accuracy", 50.0),
    ]
    assert result["dataset"]["name"] == "held-out.jsonl"
    mine = read_front_matter(card(config, state, base_head=base, licence="mit"))
    assert mine["license"] == "mit" and "license_name" not in mine
    assert "license" not in read_front_matter(card(config, state))  # never guessed


def test_the_hubs_own_reader_takes_it(config: Config, state: ManifestState) -> None:
    from huggingface_hub import ModelCard

    data = ModelCard(card(config, state, licence="mit")).data
    assert (data.license, data.base_model, data.model_name) == ("mit", "org/base", "mine-round-2")
    assert [result.metric_value for result in data.eval_results] == [70.0, 50.0]


def test_results_by_round_with_intervals(config: Config, state: ManifestState) -> None:
    text = card(config, state)
    # 1.96 standard errors: 1.96 points sampled, 3.92 greedily; never above 100 %
    assert "| base | 60.0 % (58.0 to 62.0) | 50.0 % (46.1 to 53.9) | 400 | 4 |" in text
    assert "| round 1 | 99.5 % (97.5 to 100.0) | 50.0 % (46.1 to 53.9) | 400 | 4 |" in text
    assert "| round 2 | 70.0 % (68.0 to 72.0) | 50.0 % (46.1 to 53.9) | 400 | 4 |" in text
    assert "round 3" not in text  # trained later than this policy
    assert "against the base on the same problems: +10.0 points (+0.2 to +19.8)." in text


def test_method_data_and_judges(config: Config, state: ManifestState) -> None:
    text = card(config, state)
    assert "| 2 | 1024 | 912 | 104 all_correct, 8 all_wrong | 462,792 | 90 | 79.7 % |" in text
    assert "| prompts.train | `openai/gsm8k` | 7473 | `eb3b` | 2 x no answer |" in text
    assert (
        "| `llm` | vote | llm: `judge-7b` | propagated | - | 94.1 % | 50.0 % | `truth`, 4318 steps, 80.0 % right |"
        in text
    )
    assert "| `prm` | vote | prm: `org/prm` | propagated | 0.8 | not measured | not measured | - |" in text
    assert "Agreement: llm+prm agree on 75.0 % of 400 steps." in text
    assert "arXiv 2505.14403" in text


def test_how_a_judge_says_what_it_says(config: Config, state: ManifestState) -> None:
    config.judges["llm"].__dict__.update(votes=5, says="probability", after=("prm",))
    assert "| `llm` | vote | llm: `judge-7b`, 5 votes, by P(right), after `prm` | propagated | 0.5 |" in card(
        config, state
    )


def test_versions_and_how_to_make_it_again(config: Config, state: ManifestState) -> None:
    text = card(config, state)
    assert "| torch | 2.13.0 |" in text and "A CPU, 8 processors, A GPU" in text and "`ab12`" in text
    assert "`e388c5b3`" in text and "reproduce rerun RUN_DIRECTORY --rounds 2" in text
    hyper = yaml.safe_load(text.split("```yaml")[1].split("```")[0])
    assert (hyper["seed"], hyper["objective"]["tau"]) == (7, 0.1)
    assert hyper["train"]["learning_rate"] == config.train.learning_rate


def test_nothing_of_this_machine_gets_out(config: Config, state: ManifestState) -> None:
    config.segment.__dict__.update(options={"key": "/secret"}, model="/secret/sat-3l")
    text = card(config, state)
    assert "/secret" not in text and "model: sat-3l" in text


def test_responses_made_elsewhere_are_named(config: Config) -> None:
    imported = {"source": "theirs.jsonl", "sha256": "99aa", "num_samples": 96, "num_prompts": 12}
    text = card(config, ManifestState(imports=[imported]))
    assert "Round 1's 96 responses to 12 problems were made elsewhere: `theirs.jsonl`, sha256 `99aa`." in text


def test_what_is_not_known_is_said(config: Config) -> None:
    text = card(config, ManifestState())
    assert "| round 2 | not measured |" in text and "not recorded" in text
    assert "model-index" not in text.split("---")[1]


@pytest.mark.parametrize(
    ("mean", "stderr", "shown"),
    [
        (None, 0.1, "-"),
        (0.5, None, "50.0 %"),
        (0.01, 0.01, "1.0 % (0.0 to 3.0)"),
        (0.0, 0.0, "0.0 % (0.0 to 0.0)"),
    ],
)
def test_intervals(mean: float | None, stderr: float | None, shown: str) -> None:
    assert with_interval(mean, stderr) == shown


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("embedded:sums/policy", "embedded:sums/policy"),
        ("task:gsm8k", "task:gsm8k"),
        ("task:gsm8k=/home/me/copy", "task:gsm8k=copy"),
        ("org/name", "org/name"),
        ("/home/me/x.jsonl", "x.jsonl"),
        ("data/sub/x.jsonl", "x.jsonl"),
        ("data/x.jsonl", "x.jsonl"),
    ],
)
def test_public_names(source: str, name: str) -> None:
    assert public_name(source) == name
