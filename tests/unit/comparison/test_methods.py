"""comparison/methods.py: what every method changes in a configuration, and how names are read."""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from bcpg_cluster.comparison.methods import METHODS, PAPER_METHODS, parse_methods
from bcpg_cluster.comparison.setup import Arm, arm_config
from bcpg_cluster.config.load import change_config, shipped_configs
from bcpg_cluster.config.run import Config
from bcpg_cluster.errors import ConfigError
from bcpg_cluster.stages.train.objective import AsymRe, Bcpg, Dpo, Grpo, Kto, Nft, Rft, Topr, WeightedReinforce

CONTENT: dict[str, Any] = yaml.safe_load(shipped_configs()["laptop"].read_text())


def laptop(*overrides: str) -> Config:
    return change_config(copy.deepcopy(CONTENT), overrides, "laptop")


def as_method(name: str, *overrides: str) -> Config:
    """The laptop config with ``overrides``, changed to train by a method."""
    return laptop(*overrides, *METHODS[name].settings(laptop(*overrides)))


LAPTOP_BCPG = Bcpg(tau=CONTENT["objective"]["tau"])

EXPECTED = {
    "rft": (1.0, Rft()),
    "dpo": (1.0, Dpo()),
    "topr": (1.0, Topr()),
    "grpo_offline": (1.0, Grpo()),
    "bcpg": (1.0, LAPTOP_BCPG),
    "bcpg_nsa": (0.25, LAPTOP_BCPG),
    "bcpg_prefix": (0.25, LAPTOP_BCPG),
    "asymre": (1.0, AsymRe()),
    "kto": (1.0, Kto()),
    "nft": (1.0, Nft()),
    "weighted_reinforce": (1.0, WeightedReinforce(tau=LAPTOP_BCPG.tau)),
    "topr_nsa": (0.25, Topr()),
    "grpo_nsa": (0.25, Grpo()),
    "sft_all": (1.0, Rft(on="all")),
    "sft_wrong": (1.0, Rft(on="wrong")),
}


@pytest.mark.parametrize("name", METHODS)
def test_a_method_sets_its_objective_and_what_it_mines_and_nothing_else(name):
    config = as_method(name, "weigh.beta=0.25")
    assert (config.weigh.beta, config.objective) == EXPECTED[name]
    sections = {"objective", "weigh"}
    before, after = laptop().model_dump(exclude=sections), config.model_dump(exclude=sections)
    assert after == before
    mine = METHODS[name].mines or "consensus"
    assert config.weigh.model_copy(update={"beta": 0.25}) == laptop("weigh.beta=0.25", f"weigh.mine={mine}").weigh


def test_the_table_of_this_test_is_whole():
    assert set(EXPECTED) == set(METHODS)
    assert all(METHODS[name].name == name for name in METHODS)
    assert len({method.title for method in METHODS.values()}) == len(METHODS)


def test_the_page_describes_every_method():
    page = (Path(__file__).parents[3] / "docs" / "compare.md").read_text()
    described = re.findall(r"^\| `(\w+)` \|", page.partition("## The methods")[2].partition("## What it does")[0], re.M)
    assert described == list(METHODS)


def test_methods_of_the_paper_stand_in_its_order():
    assert PAPER_METHODS == ("rft", "dpo", "topr", "grpo_offline", "bcpg", "bcpg_nsa")


@pytest.mark.parametrize("name", METHODS)
def test_methods_do_not_depend_on_another_objective_of_the_config(name):
    config = as_method(name, "objective={name: dpo, beta: 0.9}", "weigh.beta=0.1")
    beta, objective = EXPECTED[name]
    if isinstance(objective, Bcpg):
        objective = Bcpg()
    elif isinstance(objective, WeightedReinforce):
        objective = WeightedReinforce()
    assert config.objective == objective
    assert config.weigh.beta == (0.5 if beta == 0.25 else 1.0)


def test_nsa_of_a_plain_config_takes_the_papers_beta():
    assert as_method("bcpg_nsa", "weigh.beta=1").weigh.beta == 0.5
    assert as_method("bcpg_nsa", "weigh.beta=-0.5").weigh.beta == -0.5


def test_a_method_that_mines_says_which_steps_whatever_the_config_does():
    assert [as_method(name, "weigh.mine=prefix").weigh.mine for name in ("bcpg_nsa", "bcpg_prefix")] == [
        "consensus",
        "prefix",
    ]


@pytest.mark.parametrize(
    ("text", "name", "beta", "title"),
    [
        ("bcpg_nsa@-0.5", "bcpg_nsa@-0.5", -0.5, "BCPG-NSA, β = −0.5"),
        ("bcpg_nsa@.50", "bcpg_nsa@0.5", 0.5, "BCPG-NSA, β = 0.5"),
        ("bcpg_prefix@-0", "bcpg_prefix@0", 0.0, "BCPG, prefix mined, β = 0"),
        (" topr_nsa@-1 ", "topr_nsa@-1", -1.0, "TOPR + NSA, β = −1"),
    ],
)
def test_beta_may_be_stated(text, name, beta, title):
    (method,) = parse_methods(text)
    assert (method.name, method.title) == (name, title)
    config = laptop("weigh.beta=0.25", *method.settings(laptop("weigh.beta=0.25")))
    plain = as_method(text.strip().partition("@")[0], "weigh.beta=0.25")
    assert config.weigh.beta == beta
    assert config.model_copy(update={"weigh": plain.weigh}) == plain


def test_one_method_at_several_betas():
    assert [method.name for method in parse_methods("bcpg_nsa@0.5,bcpg_nsa,bcpg_nsa@-0.5")] == [
        "bcpg_nsa@0.5",
        "bcpg_nsa",
        "bcpg_nsa@-0.5",
    ]


def test_numbers_survive_the_way_through_yaml():
    # 1e-05 without a dot would come back as text
    config = as_method("bcpg", "objective.tau=0.00001", "objective.length=constant", "objective.constant_tokens=48")
    assert config.objective == Bcpg(tau=1e-5, length="constant", constant_tokens=48)
    assert all(isinstance(yaml.safe_load(o.partition("=")[2]), float | dict) for o in METHODS["bcpg"].settings(config))
    stated = yaml.safe_load(METHODS["bcpg"].settings(config)[1].partition("=")[2])
    assert stated["tau"] == 1e-5


def test_an_anchor_per_token_is_not_taken_for_one_of_the_sum():
    assert as_method("weighted_reinforce", "objective.tau_scale=per_token").objective == WeightedReinforce()


def test_names_are_read_in_order():
    assert [method.name for method in parse_methods(" bcpg_nsa, bcpg ,rft")] == ["bcpg_nsa", "bcpg", "rft"]
    assert [method.name for method in parse_methods(",".join(METHODS))] == list(METHODS)


@pytest.mark.parametrize(
    ("text", "problem", "remedy"),
    [
        ("bcpg,grpo", "unknown method 'grpo'", "did you mean grpo_offline or grpo_nsa?"),
        ("BCPG-NSA", "unknown method 'BCPG-NSA'", "did you mean bcpg_nsa?"),
        ("bcgp", "unknown method 'bcgp'", "bcpg"),
        ("zzz", "unknown method 'zzz'", "take names from that list"),
        ("bcpg,dpo,bcpg", "bcpg is given more than once", "once"),
        ("", "names no method", "--methods rft,dpo,topr"),
        (" , ", "names no method", "--methods rft,dpo,topr"),
        ("bcpg_nsa@0.5,bcpg_nsa@.5", "bcpg_nsa@0.5 is given more than once", "once"),
        ("bcpg@0.5", "bcpg mines no tokens, so it has no beta", "leave @0.5 out; bcpg_nsa, bcpg_prefix"),
        ("bcpg_nsa@2", "'bcpg_nsa@2' states no weight of mined tokens", "a number from -1 to 1, e.g. bcpg_nsa@-0.5"),
        ("bcpg_nsa@", "states no weight of mined tokens", "a number from -1 to 1"),
        ("bcpg_nsa@nan", "states no weight of mined tokens", "a number from -1 to 1"),
        ("bcpg,", "a name is missing between two commas", "remove the extra comma"),
    ],
)
def test_wrong_names_are_told(text, problem, remedy):
    with pytest.raises(ConfigError) as caught:
        parse_methods(text)
    assert problem in caught.value.problem
    assert remedy in caught.value.remedy
    assert "weighted_reinforce" in caught.value.rule


def test_arms_may_not_change_what_decides_a_step_before_a_judge_is_asked():
    base = laptop("judges.llm.after=prm")
    assert arm_config(base, Arm("same", ("weigh.beta=0.5",), 1), 0, None).weigh.beta == 0.5
    for setting in ("judges.prm.threshold=0.1", "judges.llm.after=[]", "weigh.abstention=left_out"):
        with pytest.raises(ConfigError, match="changes what decides a step beforehand"):
            arm_config(base, Arm("other", (setting,), 1), 0, None)
