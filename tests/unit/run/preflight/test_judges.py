"""preflight.py: judges that could not work, and judges whose answers would be cut off, are told of before a run."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bcpg_cluster.config.embedded import resolve_asset
from bcpg_cluster.config.judges import JudgeConfig
from bcpg_cluster.config.load import load_config, shipped_configs
from bcpg_cluster.config.run import Config
from bcpg_cluster.errors import ConfigError
from bcpg_cluster.run.preflight.judges import check_judge, judge_notes
from bcpg_cluster.stages.judge.llm.prompt_rules import RULES

MakeConfig = Callable[..., Config]


def judge(make_config: MakeConfig, **section: Any) -> Config:
    return make_config(judges={"j": {"kind": "llm", "model": "m"} | section}, pools={})


def test_a_cache_that_cannot_be_written(make_config: MakeConfig, tmp_path: Path):
    (tmp_path / "file").write_text("x")
    config = judge(make_config, cache=str(tmp_path / "file"))
    with pytest.raises(ConfigError, match="verdict cache"):
        check_judge("j", config.judges["j"])
    check_judge("j", judge(make_config, cache=str(tmp_path / "new" / "cache")).judges["j"])


def test_thoughts_that_a_schema_would_bind(make_config: MakeConfig):
    bound = {"answer_after": "</think>", "prompt": "embedded:taxonomy"}
    with pytest.raises(ConfigError, match=r"judges\.j: answer_after is '</think>'") as caught:
        check_judge("j", judge(make_config, **bound).judges["j"])
    assert "structured: none" in caught.value.remedy
    for change in (
        {"structured": "none"},
        {"prompt": "embedded:compact"},
        {"answer_after": None},
        {"engine_args": {"reasoning_parser": "qwen3"}},
    ):
        check_judge("j", judge(make_config, **bound | change).judges["j"])
    with pytest.raises(ConfigError, match="structured is for judges of kind 'llm'"):
        make_config(judges={"j": {"kind": "fake", "structured": "none"}})


@pytest.mark.parametrize(
    ("section", "words"),
    [
        ({}, "has no window_steps.*max_tokens 512 has room for verdicts on about 5 .*Set window_steps to 5"),
        ({"window_steps": 8}, "asks about 8 steps at once.*room for verdicts on about 5"),
        ({"max_tokens": 40, "window_steps": 1}, "about 0 .*Set window_steps to 1"),
        ({"window_steps": 5}, None),
        ({"max_tokens": 4096}, None),
        ({"view": "causal"}, None),
        ({"prompt": "embedded:compact"}, None),
        ({"prompt": "embedded:compact", "window_steps": 80}, "asks about 80 steps at once"),
    ],
)
def test_answers_that_would_be_cut_off(make_config: MakeConfig, section: dict[str, Any], words: str | None):
    notes = judge_notes(judge(make_config, **section))
    assert len(notes) == (words is not None)
    assert words is None or re.search(words, notes[0])


def test_lines_are_counted_by_the_judges_own_tokenizer(make_config: MakeConfig):
    """The default's judge has a token for a line end with a number and one for a verdict: 112 tokens are 56 lines, and no response
    of a measured run had more than 21 steps. A judge whose tokenizer is elsewhere is taken to need 8 tokens a line.
    """
    section = {"prompt": "embedded:compact", "max_tokens": 112}
    assert judge_notes(judge(make_config, model="embedded:sums/judge", **section)) == []
    (note,) = judge_notes(judge(make_config, model="somebody/judge", **section))
    assert "room for verdicts on about 14 (some 8 tokens a step)" in note
    (note,) = judge_notes(judge(make_config, model="embedded:sums/judge", **section | {"max_tokens": 20}))
    assert "(some 2 tokens a step)" in note
    content = {"model": "embedded:sums/judge", "engine_args": {"tokenizer": resolve_asset("embedded:sums/policy")}}
    (note,) = judge_notes(judge(make_config, **section | content))
    assert "(some 2 tokens a step)" not in note


VOTES = {"votes": 5, "temperature": 0.7}
ENDPOINT = {"kind": "openai", "endpoint": {"base_url": "http://127.0.0.1:1/v1"}}


@pytest.mark.parametrize(
    ("section", "words"),
    [
        ({"votes": 3}, "votes is 3, but temperature 0 draws the same answer each time; set temperature above 0"),
        (ENDPOINT | {"votes": 2}, "votes is 2, but temperature 0"),
        ({"kind": "prm"} | VOTES, "votes and says are for judges of kind 'llm' and 'openai', not 'prm'"),
        ({"kind": "prm", "says": "probability"}, "votes and says are for judges"),
        ({"votes": 0}, r"judges\.j\.votes"),
    ],
)
def test_scores_that_cannot_be_made(make_config: MakeConfig, section: dict[str, Any], words: str):
    with pytest.raises(ConfigError, match=words) as caught:
        judge(make_config, **section)
    assert caught.value.remedy


def test_judges_that_have_a_threshold(make_config: MakeConfig):
    for section, is_scoring in (
        ({}, False),
        (VOTES, True),
        ({"says": "probability"}, True),
        ({"kind": "prm"}, True),
        ({"kind": "chain_truth", "model": None}, False),
    ):
        assert judge(make_config, **section).judges["j"].only_labels is not is_scoring


def test_log_probs_that_the_engine_would_refuse(make_config: MakeConfig):
    def section(**changed: Any) -> JudgeConfig:
        return judge(make_config, says="probability", **changed).judges["j"]

    with pytest.raises(ConfigError, match="max_logprobs 5") as caught:
        check_judge("j", section(engine_args={"max_logprobs": 5}))
    assert "20 or more" in caught.value.remedy
    for most in (20, 50, -1):
        check_judge("j", section(engine_args={"max_logprobs": most}))
    check_judge("j", section())
    check_judge("j", section(**VOTES))


def test_votes_of_an_endpoint_without_seeds(make_config: MakeConfig):
    many = VOTES | {"max_tokens": 4096}
    (note,) = judge_notes(judge(make_config, **ENDPOINT | many))
    assert "judges.j.endpoint.send_seed: true" in note
    seeded = {"kind": "openai", "endpoint": ENDPOINT["endpoint"] | {"send_seed": True}}  # type: ignore[operator]
    assert judge_notes(judge(make_config, **seeded | many)) == judge_notes(judge(make_config, **many)) == []


@pytest.mark.parametrize("name", shipped_configs())
def test_shipped_configs_have_no_notes_about_judges(name: str):
    assert judge_notes(load_config(name)) == []


VOTERS_BY_THEMSELVES = {name: {"kind": "fake", "rule": "local"} for name in ("llm", "prm")}


def of_rule(make_config: MakeConfig, **section: Any) -> JudgeConfig:
    """A judge of the rule `local` among voters of it."""
    return make_config(judges={**VOTERS_BY_THEMSELVES, "j": {"model": "m", "rule": "local"} | section}).judges["j"]


def test_a_prompt_without_words_for_the_rule(make_config: MakeConfig, tmp_path: Path):
    prompt = tmp_path / "mine.toml"
    prompt.write_text('name = "mine"\nsystem = ""\nuser = "$problem $steps $first $last"\nstep = "$index $text"\n')
    with pytest.raises(ConfigError, match="'mine' has no words for the rule 'local'; it asks by propagated") as caught:
        check_judge("j", of_rule(make_config, kind="llm", prompt=str(prompt)))
    assert "[rules.local]" in caught.value.remedy
    check_judge("j", judge(make_config, prompt=str(prompt)).judges["j"])
    for shipped in ("embedded:taxonomy", "embedded:compact"):
        check_judge("j", of_rule(make_config, kind="llm", prompt=shipped))


@pytest.mark.parametrize("kind", ["llm", "prm"])
def test_a_model_that_was_taught_another_rule(make_config: MakeConfig, tmp_path: Path, kind: str):
    model = tmp_path / "model"
    model.mkdir()
    paper, local = (of_rule(make_config, kind=kind, model=str(model), rule=rule, role="spare") for rule in RULES)
    for content in ("{}", '{"bcpg_step_rule": null}', "[]", "not JSON"):  # unknown: the config says what it means
        (model / "config.json").write_text(content)
        check_judge("j", local)
        check_judge("j", paper)
    (model / "config.json").write_text('{"bcpg_step_rule": "propagated"}')
    check_judge("j", paper)
    with pytest.raises(ConfigError, match=r"judges\.j\.rule is 'local', but .*model was taught 'propagated'") as caught:
        check_judge("j", local)
    assert "set judges.j.rule: propagated" in caught.value.remedy
    (model / "config.json").write_text('{"bcpg_step_rule": "local"}')
    check_judge("j", local)
    with pytest.raises(ConfigError, match="was taught 'local'"):
        check_judge("j", paper)


def test_the_shipped_judges_say_what_they_were_taught(make_config: MakeConfig):
    for kind, model in (("llm", "embedded:chain/judge"), ("prm", "embedded:chain/prm")):
        files = Path(resolve_asset(model)) / "config.json"
        taught = json.loads(files.read_text())["bcpg_step_rule"]
        (other,) = set(RULES) - {taught}
        check_judge("j", of_rule(make_config, kind=kind, model=model, rule=taught, role="spare"))
        with pytest.raises(ConfigError, match=f"was taught '{taught}'"):
            check_judge("j", of_rule(make_config, kind=kind, model=model, rule=other, role="spare"))


def test_a_measure_of_another_rule_has_a_note(make_config: MakeConfig):
    (note,) = judge_notes(make_config(judges=VOTERS_BY_THEMSELVES))  # the truth of the config of fakes stays
    assert "judges.truth measures by the rule 'propagated', the judges that vote grade by 'local'" in note
    assert "Set judges.truth.rule: local" in note


def test_judges_without_answers_have_no_notes(make_config: MakeConfig):
    assert judge_notes(make_config()) == []


def test_generative_prms_are_asked_as_they_were_trained(make_config: MakeConfig):
    fits = {
        "thinkprm": {"view": "full", "max_tokens": 8192},
        "genprm": {"view": "causal", "max_tokens": 2048},
        "rprm": {"view": "causal", "max_tokens": 2048},
    }
    for name, options in fits.items():
        of_family = {"prompt": f"embedded:{name}", **options}
        config = judge(make_config, **of_family)
        check_judge("j", config.judges["j"])
        assert judge_notes(config) == []
        check_judge("j", of_rule(make_config, kind="llm", **of_family))  # the model's labels say by which rule
        other = {"view": "causal" if options["view"] == "full" else "full"}
        for change in (
            other,
            {"show_gold": True},
            {"window_steps": 8},
            {"look_ahead": True},
            {"answer_after": "</think>"},
        ):
            with pytest.raises(ConfigError, match=rf"judges\.j: .*its prompt has answer = '{name}'"):
                check_judge("j", judge(make_config, **of_family | change).judges["j"])
        (note,) = judge_notes(judge(make_config, **of_family | {"max_tokens": 512}))
        assert "max_tokens 512 cuts thoughts off" in note


def test_a_generative_prm_that_its_prompt_is_not_for(make_config: MakeConfig):
    section = {"model": "launch/ThinkPRM-14B", "view": "causal", "max_tokens": 2048}
    with pytest.raises(ConfigError, match=r"is a thinkprm by its name.*answer = 'rprm'") as caught:
        check_judge("j", judge(make_config, **section, prompt="embedded:rprm").judges["j"])
    assert caught.value.remedy == "set prompt: embedded:thinkprm"
    (note,) = judge_notes(judge(make_config, **section, prompt="embedded:taxonomy"))
    assert "was trained to judge" in note
    assert "Set prompt: embedded:thinkprm" in note
    assert judge_notes(judge(make_config, **section | {"model": "some/Our-PRM-7B"}, prompt="embedded:taxonomy")) == []


@pytest.mark.parametrize(
    ("section", "words"),
    [
        ({"kind": "prm", "convention": "implicit"}, "needs a reference_model"),
        ({"kind": "prm", "convention": "qwen", "reference_model": "r"}, "reference_model is for judges of kind 'prm'"),
        ({"kind": "llm", "reference_model": "r"}, "reference_model is for judges of kind 'prm'"),
        ({"kind": "prm", "reward_beta": 0.5}, "reward_beta is for judges of convention 'implicit'"),
        ({"kind": "prm", "convention": "implicit", "reference_model": "r", "reward_beta": 0}, "greater than 0"),
    ],
)
def test_reference_models_belong_to_implicit_prms(make_config: MakeConfig, section: dict[str, Any], words: str):
    with pytest.raises(ConfigError, match=words):
        judge(make_config, **section)
    judge(make_config, kind="prm", convention="implicit", reference_model="r", reward_beta=0.05)
