"""A model without its weights: what is there of it, and which files would fill it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from bcpg_cluster.stages.train.loading.empty_model import empty_model, is_filled_by, places
from bcpg_cluster.stages.train.loading.whole_model import load_whole
from bcpg_cluster.stages.train.objective import Bcpg
from bcpg_cluster.stages.train.protocol import TrainSettings

SETTINGS = TrainSettings(objective=Bcpg(), learning_rate=1e-3, min_learning_rate=1e-3)
ROPES: dict[str, dict[str, Any]] = {
    "default": {"rope_type": "default"},
    "yarn": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32},
    "llama3": {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 32,
    },
}


def save(path: Path, rope: str = "default", *, tied: bool = True) -> str:
    config = LlamaConfig(
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=1,
        num_attention_heads=2,
        vocab_size=31,
        max_position_embeddings=128,
        tie_word_embeddings=tied,
        rope_parameters={"rope_theta": 10000.0, **ROPES[rope]},
        attention_dropout=0.3,
    )
    LlamaForCausalLM(config).save_pretrained(path)
    return str(path)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rope", ROPES)
def test_all_but_the_weights_is_that_of_the_whole_model(rope: str, dtype: torch.dtype, tmp_path: Path) -> None:
    model = save(tmp_path, rope)
    whole, empty = load_whole(model, SETTINGS, dtype), empty_model(model, SETTINGS, dtype)
    assert empty is not None
    assert all(parameter.is_meta for parameter in empty.parameters())
    wanted, found = dict(whole.named_buffers()), dict(empty.named_buffers())
    assert found.keys() == wanted.keys() != set()
    for name, buffer in wanted.items():
        assert found[name].dtype is buffer.dtype and torch.equal(found[name], buffer), name
    described = [(name, each.dtype, each.shape) for name, each in empty.named_parameters()]
    assert described == [(name, each.dtype, each.shape) for name, each in whole.named_parameters()]
    assert empty.config.attention_dropout == 0.0
    assert torch.nn.Linear(1, 1).weight.device.type == "cpu", "later modules have weights again"


@pytest.mark.parametrize("tied", [True, False])
def test_a_tied_weight_is_one_in_two_places(tied: bool, tmp_path: Path) -> None:
    model = empty_model(save(tmp_path, tied=tied), SETTINGS, torch.float32)
    assert model is not None
    held = {name: held_at for name, _, held_at in places(model)}
    assert len(held["model.embed_tokens.weight"]) == (2 if tied else 1)
    assert ("lm_head.weight" in held) is not tied
    assert all(getattr(module, name) is parameter for _, parameter, of in places(model) for module, name in of)


def test_which_tensors_fill_a_model(tmp_path: Path) -> None:
    model = empty_model(save(tmp_path), SETTINGS, torch.float32)
    assert model is not None
    shapes = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    assert is_filled_by(model, shapes)
    assert is_filled_by(model, {**shapes, "model.layers.7.extra": (1,)}), "what the model has no place for is left"
    head = shapes["model.embed_tokens.weight"]
    assert not is_filled_by(model, {**shapes, "lm_head.weight": head}), "it may be another than the embedding"
    assert not is_filled_by(model, {**shapes, "model.norm.weight": (17,)})
    assert not is_filled_by(model, {name: shape for name, shape in shapes.items() if name != "model.norm.weight"})
    assert not is_filled_by(model, {name.removeprefix("model."): shape for name, shape in shapes.items()})
    model.model.register_buffer("running_mean", torch.zeros(3))
    assert not is_filled_by(model, {**shapes, "model.running_mean": (3,)})


@pytest.mark.parametrize(
    "changed", [{"auto_map": {"AutoModelForCausalLM": "own.Own"}}, {"quantization_config": {"quant_method": "fp8"}}]
)
def test_code_and_quantised_weights_of_its_own(changed: dict[str, object], tmp_path: Path) -> None:
    model = save(tmp_path)
    file = tmp_path / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changed}))
    is_code = "auto_map" in changed
    settings = replace(SETTINGS, trust_remote_code=is_code)
    assert empty_model(model, settings, torch.float32) is None
    if is_code:  # not run without leave: the model is transformers' own
        assert empty_model(model, SETTINGS, torch.float32) is not None
