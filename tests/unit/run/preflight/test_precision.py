"""run/preflight/precision.py: engines and trainer in one data type, or a tolerance that allows for two."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bcpg_cluster.config.run import Config
from bcpg_cluster.errors import ConfigError
from bcpg_cluster.run.preflight.precision import check_policy_dtype, engine_dtype, precision_notes

MakeConfig = Callable[..., Config]


def _config(make_config: MakeConfig, engine: Any, train: str, model: str = "m", tolerance: float = 1e-3) -> Config:
    args = {} if engine is None else {"dtype": engine}
    return make_config(
        policy={"kind": "vllm", "model": model, "engine_args": args},
        train={"kind": "torch", "dtype": train},
        push={"tolerance_nats": tolerance},
    )


@pytest.mark.parametrize(
    ("engine", "train"),
    [("float32", "float32"), ("float", "float32"), ("bfloat16", "bfloat16"), (None, "float32"), (None, "bfloat16")],
)
def test_one_data_type(make_config: MakeConfig, engine: str | None, train: str):
    check_policy_dtype(_config(make_config, engine, train))


@pytest.mark.parametrize(
    ("engine", "train", "remedy"),
    [
        ("bfloat16", "float32", "set policy.engine_args.dtype to float32, or train.dtype to bfloat16"),
        ("float32", "bfloat16", "set policy.engine_args.dtype to bfloat16, or train.dtype to float32"),
        ("half", "bfloat16", "set policy.engine_args.dtype to bfloat16"),
    ],
)
def test_two_data_types_are_both_named(make_config: MakeConfig, engine: str, train: str, remedy: str):
    with pytest.raises(ConfigError) as caught:
        check_policy_dtype(_config(make_config, engine, train))
    assert f"policy.engine_args.dtype is {engine!r}" in caught.value.problem
    assert f"train.dtype is {train!r}" in caught.value.problem
    assert caught.value.remedy == remedy
    check_policy_dtype(_config(make_config, engine, train, tolerance=0.25))


@pytest.mark.parametrize(
    ("content", "engine"),
    [
        ({"dtype": "bfloat16"}, "bfloat16"),
        ({"torch_dtype": "float16"}, "float16"),
        ({"torch_dtype": "float32"}, "bfloat16"),
        ({}, "bfloat16"),
        (None, None),
    ],
)
def test_auto_is_the_files_type_and_never_float32(tmp_path: Path, content: dict[str, str] | None, engine: str | None):
    if content is not None:
        (tmp_path / "config.json").write_text(json.dumps(content))
    assert engine_dtype("auto", str(tmp_path)) == engine
    assert engine_dtype(None, str(tmp_path)) is None


def test_auto_beside_a_float32_trainer(make_config: MakeConfig, tmp_path: Path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"is 'auto', for this model bfloat16, but train\.dtype is 'float32'"):
        check_policy_dtype(_config(make_config, "auto", "float32", str(tmp_path)))
    check_policy_dtype(_config(make_config, "auto", "bfloat16", str(tmp_path)))


def test_fakes_compute_nothing(make_config: MakeConfig):
    check_policy_dtype(make_config(policy={"engine_args": {"dtype": "bfloat16"}}))
    assert precision_notes(make_config(train={"dtype": "bfloat16"})) == []


def test_a_tight_tolerance_is_noted(make_config: MakeConfig):
    assert "push.tolerance_nats is 0.001" in precision_notes(_config(make_config, None, "bfloat16"))[0]
    assert precision_notes(_config(make_config, None, "bfloat16", tolerance=0.25)) == []
    assert precision_notes(_config(make_config, None, "float32")) == []
