"""stages/train/deepspeed/partitioned.py: what becomes of the weights of a model that is filled one at a time."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from transformers import ZambaConfig, ZambaForCausalLM

from bcpg_cluster.cluster.liveness.rank_progress import ProgressReporter
from bcpg_cluster.stages.train.deepspeed import partitioned
from bcpg_cluster.stages.train.loading.empty_model import empty_model
from bcpg_cluster.stages.train.loading.weight_files import WeightFiles
from bcpg_cluster.stages.train.objective import Bcpg
from bcpg_cluster.stages.train.protocol import TrainSettings

SETTINGS = TrainSettings(objective=Bcpg(), learning_rate=1e-3, min_learning_rate=1e-3, zero_stage=3)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_weights_are_cut_up_in_one_dtype(dtype: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also those that a model makes in float32 by itself: DeepSpeed cuts up no two dtypes."""
    small = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2}
    layers = {"layers_block_type": ["mamba", "hybrid", "hybrid"], "n_mamba_heads": 2, "mamba_d_state": 4}
    ZambaForCausalLM(ZambaConfig(vocab_size=31, attention_head_dim=16, **small, **layers)).save_pretrained(tmp_path)
    model, settings = str(tmp_path), replace(SETTINGS, dtype=dtype)
    wanted = getattr(torch, dtype)
    empty, files = empty_model(model, settings, wanted), WeightFiles(model)
    assert empty is not None
    made = {name: parameter.dtype for name, parameter in empty.named_parameters()}
    assert made["model.layers.0.mamba.A_log"] is torch.float32
    monkeypatch.setattr(partitioned, "_CutUp", lambda config: SimpleNamespace(add=lambda parameter: None))
    group = SimpleNamespace(rank=0, device=torch.device("cpu"), raise_alike=lambda problem: None)
    partitioned._fill(empty, model, files, settings, cast(Any, group), ProgressReporter())
    for name, parameter in empty.named_parameters():
        held = files.get(name)
        assert held is not None
        assert parameter.dtype is wanted and torch.equal(parameter, held.to(wanted)), name
