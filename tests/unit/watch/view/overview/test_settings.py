"""watch.view.overview.settings: every key once, beside its default."""

from __future__ import annotations

from collections.abc import Callable

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


def test_the_method_in_words(make_config: Callable[..., Config]):
    assert method_words(make_config(weigh={"beta": 0.0, "rule": "any"})) == (
        "Objective bcpg: of a wrong answer, tokens of steps that llm and prm (at least one calls right) are mined and carry no "
        "penalty (weigh.beta 0); all other tokens are trained on by the answer's advantage."
    )
