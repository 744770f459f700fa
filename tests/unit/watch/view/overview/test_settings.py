"""watch.view.overview.settings: every key once, beside its default."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from bcpg_cluster.config.run import Config
from bcpg_cluster.watch.view.overview.settings import config_lines, method_words


def test_keys_with_their_defaults(make_config: Callable[..., Config]):
    lines = {line.key: line for line in config_lines(make_config(weigh={"beta": 0.25}, seed=0))}
    beta = lines["weigh.beta"]
    assert (beta.value, beta.default, beta.differs) == ("0.25", "0.5", True)
    assert (lines["seed"].value, lines["seed"].differs) == ("0", False)
    assert (lines["policy.model"].value, lines["policy.model"].default) == ("fake", None)
    assert lines["judges.llm.precision"].value == "0.9"
    assert (lines["objective.tau"].value, lines["objective.tau"].differs) == ("0.1", True)
    assert lines["judges.llm.class"].value == "null"
    assert len(lines) == len(config_lines(make_config()))  # no key twice


def test_the_section_that_may_hold_keys_is_left_out(make_config: Callable[..., Config]):
    assert not [line for line in config_lines(make_config()) if line.key.startswith("storage")]


@pytest.mark.parametrize(
    ("judges", "weigh", "words"),
    [
        ("a", {"beta": 0.0}, "the tokens of steps that a calls right are mined: they are spared (weigh.beta 0)."),
        ("ab", {"beta": 0.0}, "steps that a and b both call right are mined: they are spared (weigh.beta 0)."),
        (
            "abc",
            {"beta": 1.0},
            "steps that a, b and c all call right are mined: they are punished in full, like all others (",
        ),
        (
            "ab",
            {"rule": "any"},
            "steps that at least one of a and b calls right are mined: they are punished at 0.5 of",
        ),
        ("abc", {"rule": "majority"}, "steps that at least 2 of a, b and c call right are mined"),
        ("abc", {"rule": "k_of_n", "num_needed": 1}, "steps that at least one of a, b and c calls right are mined"),
        ("abc", {"rule": "k_of_n", "num_needed": 3}, "steps that a, b and c all call right are mined"),
        (
            "ab",
            {"rule": "weighted", "accuracies": {"a": 0.75, "b": 0.6}},
            "steps that the weighted votes of a and b call right are mined",
        ),
        (
            "a",
            {"mine": "prefix", "beta": -0.25},
            "leading steps that a calls right are mined: they are rewarded at 0.25 of",
        ),
    ],
)
def test_the_method_in_words(make_config: Callable[..., Config], judges: str, weigh: dict[str, Any], words: str):
    content = make_config().model_dump(mode="json") | {"judges": {name: {"kind": "fake"} for name in judges}}
    said = method_words(Config.model_validate(content | {"weigh": weigh}))
    assert said.startswith("Objective bcpg: in a wrong answer, the tokens of ")
    assert words in said


@pytest.mark.parametrize(
    ("objective", "words"),
    [
        ({"name": "rft"}, "trains on right answers alone."),
        ({"name": "rft", "on": "wrong"}, "trains on wrong answers alone."),
        ({"name": "dpo"}, "trains on pairs of a right and a wrong answer."),
        ({"name": "kto"}, "trains on right and wrong answers."),
    ],
)
def test_objectives_without_token_weights_spare_nothing(
    make_config: Callable[..., Config], objective: dict[str, Any], words: str
):
    content = make_config().model_dump(mode="json") | {"objective": objective}
    said = method_words(Config.model_validate(content))
    assert said == f"Objective {objective['name']}: {words} It takes no token weights, so mined steps are only counted."
