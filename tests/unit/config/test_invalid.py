"""config/invalid: faulty keys in plain words, and what can be read beside them."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any

import pytest

from bcpg_cluster.config.invalid.keys import InvalidConfigError
from bcpg_cluster.config.invalid.partial import COMPARED, MissingSectionError
from bcpg_cluster.config.load import change_config
from bcpg_cluster.config.run import Config

FakesContent = Callable[[], dict[str, Any]]


def invalid(content: dict[str, Any], *settings: str) -> InvalidConfigError:
    with pytest.raises(InvalidConfigError) as caught:
        change_config(content, settings, "case")
    return caught.value


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("seed=1.5", "seed: must be a whole number (got 1.5)"),
        ("seed=abc", "seed: must be a whole number (got 'abc')"),
        ("seed=-1", "seed: must be at least 0 (got -1)"),
        ("weigh.beta=2", "weigh.beta: must be at most 1 (got 2)"),
        ("train.learning_rate=high", "train.learning_rate: must be a number (got 'high')"),
        ("name=", "name: must be text (got nothing)"),
        ("name=a/b", "name: must match the pattern ^[A-Za-z0-9][A-Za-z0-9._-]*$ (got 'a/b')"),
        ("policy.engine_args=5", "policy.engine_args: must be a mapping of keys to values (got 5)"),
        ("generate=5", "generate: must be a mapping of keys to values (got 5)"),
        ("generate={group_size: 4}", "generate.max_tokens: required, but missing"),
        ("verify.numeric=2", "verify.numeric: must be true or false (got 2)"),
        ("autoscaling=maybe", "autoscaling: must be 'auto', or true or false (got 'maybe')"),
        ("segment.merge=7", "segment.merge: must be true or false, or 'auto' (got 7)"),
        (
            "train.lora={target_modules: some}",
            "train.lora.target_modules: must be 'all-linear', or a list (got 'some')",
        ),
        ("train.lora={target_modules: [q, 3]}", "train.lora.target_modules: must be text (got 3)"),
        ("placement=true", "placement: must be 'separate' or 'colocated' (got true)"),
        ("objective={name: dpo, tau: 1}", "objective.tau: unknown key for the objective 'dpo'"),
        ("objective={name: 3}", "objective.name: must be 'bcpg'"),
        ("pools.spare={members: 2}", "pools: nothing uses spare; the pools of this config are rollout, cpu, trainer"),
        ("weigh.rule=k_of_n", "the rule k_of_n needs num_needed: how many judges"),
    ],
)
def test_in_plain_words(fakes_content: FakesContent, setting: str, said: str):
    error = invalid(fakes_content(), setting)
    assert error.problem.startswith(f"case is invalid:\n    {said}"), error.problem
    assert len(error.keys) == 1


def test_a_key_for_every_fault(fakes_content: FakesContent):
    error = invalid(fakes_content(), "seed=-1", "weigh.bta=1", "evaluate.num_sampels=2")
    assert [(key.key, key.problem, key.near) for key in error.keys] == [
        ("seed", "must be at least 0 (got -1)", ()),
        ("weigh.bta", "unknown key", ("weigh.beta",)),
        ("evaluate.num_sampels", "unknown key", ("evaluate.num_samples", "evaluate.num_prompts")),
    ]
    assert error.remedy == (
        "correct what is named above; did you mean weigh.beta for weigh.bta, "
        "evaluate.num_samples or evaluate.num_prompts for evaluate.num_sampels?"
    )
    again = pickle.loads(pickle.dumps(error))
    assert (again.keys, str(again), again.content) == (error.keys, str(error), error.content)


def missing(error: InvalidConfigError) -> set[str]:
    rest, names = error.rest, set()
    for name in Config.model_fields:
        try:
            getattr(rest, name)
        except MissingSectionError:
            names.add(name)
    return names - {"objective"}


def test_the_rest_has_the_sections_without_a_fault(fakes_content: FakesContent):
    error = invalid(fakes_content(), "train.learnin_rate=1", "seed=-1", "weigh.beta=0.25")
    assert missing(error) == {"train", "seed"}
    whole = change_config(fakes_content(), ["weigh.beta=0.25"], "good")
    for name in set(Config.model_fields) - {"train", "seed", "objective"}:
        assert getattr(error.rest, name) == getattr(whole, name), name


def test_a_default_never_stands_in_for_what_was_meant(fakes_content: FakesContent):
    """A section under a wrong name is not there, and its default is not what was meant."""
    content = fakes_content()
    whole = fakes_content()
    silent = set(Config.model_fields) - {
        *whole,
        "name",
        "seed",
        "placement",
        "pipeline",
        "autoscaling",
        "objective",
        "max_quarantined_share",
    }
    content["prompt"] = content.pop("prompts")
    assert missing(invalid(content)) == {"prompts"} | silent
    whole.pop("verify", None)
    assert "verify" in missing(invalid(whole | {"reward": {"kind": "math"}}))
    assert missing(invalid(fakes_content(), "weigh.rule=k_of_n")) == COMPARED
    with pytest.raises(AttributeError):
        invalid(fakes_content(), "seed=-1").rest.no_section  # noqa: B018
