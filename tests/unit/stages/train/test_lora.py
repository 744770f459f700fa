"""lora.py: whether engines can merge adapters into a model's files, known without its weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from transformers import Qwen2Config, Qwen2ForCausalLM

from bcpg_cluster.errors import ConfigError
from bcpg_cluster.stages.train.lora import check_lora
from bcpg_cluster.stages.train.protocol import LoraSettings


def model_in(folder: Path, dtype: torch.dtype) -> str:
    config = Qwen2Config(
        vocab_size=16,
        hidden_size=8,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=1,
        num_key_value_heads=1,
    )
    Qwen2ForCausalLM(config).to(dtype).save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_engines_merge_into_what_float32_holds(tmp_path: Path, dtype: torch.dtype):
    check_lora(model_in(tmp_path, dtype), LoraSettings(), is_merged_by_engines=True)


def test_engines_do_not_merge_into_what_float32_rounds(tmp_path: Path):
    path = model_in(tmp_path, torch.float64)
    check_lora(path, LoraSettings())
    with pytest.raises(
        ConfigError, match=r"has model.layers.0.self_attn.q_proj.weight in F64 \(7 of 7 adapted layers\)"
    ):
        check_lora(path, LoraSettings(), is_merged_by_engines=True)


def test_the_files_have_every_adapted_weight_by_its_name(tmp_path: Path):
    path = model_in(tmp_path, torch.float32)
    save_file({"model.layers.0.mlp.up_proj.qweight": torch.ones(2)}, tmp_path / "model.safetensors")
    with pytest.raises(ConfigError, match=r"has no model.layers.0.mlp.up_proj.weight in safetensors") as caught:
        check_lora(path, LoraSettings(target_modules=("up_proj",)), is_merged_by_engines=True)
    assert "set push.carries to 'weights'" in caught.value.remedy
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(ConfigError, match="in safetensors"):
        check_lora(path, LoraSettings(), is_merged_by_engines=True)
    check_lora(path, LoraSettings())
