"""Process reward models and their reference models, checked by their files before anything starts."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bcpg_cluster.config.embedded import resolve_asset
from bcpg_cluster.config.run import Config
from bcpg_cluster.errors import ConfigError, DataError
from bcpg_cluster.run.preflight.made_with import made_with
from bcpg_cluster.run.preflight.models import check_model_claims, check_models, convention_trials
from bcpg_cluster.stages.judge.prm.trial import try_conventions

MakeConfig = Callable[..., Config]


@pytest.fixture(scope="module")
def eurus(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A causal model that is implicit by its name."""
    folder = tmp_path_factory.mktemp("models") / "EurusPRM-tiny"
    shutil.copytree(resolve_asset("embedded:sums/judge"), folder)
    config = folder / "config.json"
    config.write_text(config.read_text().replace('"bcpg_step_rule"', '"was_taught"'))
    return str(folder)


def judged(make_config: MakeConfig, **section: Any) -> Config:
    return make_config(judges={"j": {"kind": "prm", "role": "spare"} | section}, pools={})


def test_an_implicit_model_needs_its_reference(make_config: MakeConfig, eurus: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"judges\.j\.model: .*'implicit', and no reference_model was given"):
        check_model_claims(judged(make_config, model=eurus))
    with pytest.raises(ConfigError, match=r"judges\.j\.model: .*'qwen', and a reference_model was given"):
        check_model_claims(judged(make_config, model="embedded:sums/prm", reference_model=eurus))
    with pytest.raises(DataError, match=r"judges\.j\.reference_model: .*nowhere is not a directory"):
        check_models(judged(make_config, model=eurus, reference_model=str(tmp_path / "nowhere")))
    with pytest.raises(DataError, match=r"judges\.j\.reference_model: .* is a Qwen2ForProcessRewardModel"):
        check_model_claims(judged(make_config, model=eurus, reference_model="embedded:sums/prm"))
    with pytest.raises(ConfigError, match="which vLLM does not serve"):
        check_model_claims(judged(make_config, model=eurus, reference_model=eurus, engine="vllm"))
    fits = judged(make_config, model=eurus, reference_model="embedded:sums/judge")
    check_model_claims(fits)
    check_models(fits)
    noted = {name: digest.source for name, digest in made_with(fits).files.items()}
    assert noted["judges.j.reference_model"] == "embedded:sums/judge"


def test_inputs_are_tried_where_the_files_are_here(make_config: MakeConfig, eurus: str) -> None:
    reference = {"model": eurus, "reference_model": "embedded:sums/judge"}
    trials = convention_trials(judged(make_config, **reference))
    assert [(trial.key, trial.reference) for trial in trials] == [
        ("judges.j.model", resolve_asset("embedded:sums/judge"))
    ]
    assert convention_trials(judged(make_config, model="nobody/has-it", convention="qwen")) == []
    assert convention_trials(judged(make_config, model=eurus, reference_model="nobody/has-it")) == []
    with pytest.raises(ConfigError, match=r"judges\.j\.model: '<extra_9>' is not a token"):
        try_conventions(convention_trials(judged(make_config, model="embedded:sums/prm", separator="<extra_9>")))
    with pytest.raises(ConfigError, match=r"judges\.j\.model: .*not in the vocabulary"):
        try_conventions(convention_trials(judged(make_config, model=eurus, convention="pathfinder")))


@pytest.mark.parametrize("convention", ["math_shepherd", "pathfinder"])
def test_a_tokenizer_that_does_not_load_is_called_that(
    make_config: MakeConfig, eurus: str, tmp_path: Path, convention: str
) -> None:
    broken = tmp_path / "prm"
    shutil.copytree(eurus, broken)
    (broken / "tokenizer.json").write_text("no tokenizer")
    with pytest.raises(DataError, match=r"judges\.j\.model: the tokenizer of .* does not load"):
        try_conventions(convention_trials(judged(make_config, model=str(broken), convention=convention)))
