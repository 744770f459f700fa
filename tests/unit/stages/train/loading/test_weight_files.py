"""Weights out of a checkpoint's files: which files count, pieces, and what is said of torn ones."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from bcpg_cluster.errors import DataError
from bcpg_cluster.stages.push.adapters.merge import AdapterSet, merge_into, merged
from bcpg_cluster.stages.train.loading.weight_files import FINER, WeightFiles

TENSORS = {
    "matrix": torch.arange(21.0).reshape(7, 3),
    "experts": torch.arange(30.0).reshape(2, 3, 5),
    "vector": torch.arange(5.0),
    "scalar": torch.tensor(4.0),
}


def test_every_piece_of_a_weight(tmp_path: Path) -> None:
    """As many ranks as there may be: together their pieces are the weight, and zeros beyond its end."""
    save_file(TENSORS, tmp_path / "model.safetensors")
    files = WeightFiles(str(tmp_path))
    assert files.shapes == {name: tuple(tensor.shape) for name, tensor in TENSORS.items()}
    for name, tensor in TENSORS.items():
        for num_ranks in range(1, tensor.numel() + 3):
            length = -(-tensor.numel() // num_ranks)
            pieces = torch.cat([files.piece(name, rank * length, length) for rank in range(num_ranks)])
            assert torch.equal(pieces[: tensor.numel()], tensor.reshape(-1)), (name, num_ranks)
            assert not pieces[tensor.numel() :].any()


def test_weights_that_bfloat16_would_round(tmp_path: Path) -> None:
    finest = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    whole = {"f32.weight": finest, "f16.weight": finest.half(), "bf16.weight": finest.bfloat16()}
    save_file(whole, tmp_path / "model.safetensors")
    weights = WeightFiles(str(tmp_path), FINER)
    for name in ("f32.weight", "f16.weight"):
        found = weights.get(name)
        assert found is not None
        assert torch.equal(found, whole[name])
        assert torch.equal(weights.piece(name, 0, 12), whole[name].float().flatten())
        assert not torch.equal(found, found.bfloat16().to(found.dtype))
    assert weights.get("bf16.weight") is None
    assert weights.get("other.weight") is None


def test_engines_merge_into_float16_files_what_a_trainer_in_bfloat16_merges(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(1)
    weight, down, up = (torch.randn(*shape, generator=generator) for shape in ((6, 5), (2, 5), (6, 2)))
    save_file({"layer.weight": weight.half()}, tmp_path / "model.safetensors")
    frozen = WeightFiles(str(tmp_path), FINER).get("layer.weight")
    assert frozen is not None
    adapters = AdapterSet({"layer.weight": (down, up)}, 0.5)
    ((_, by_engine),) = merge_into([("layer.weight", weight.half())], [adapters])
    assert torch.equal(merged(frozen.float(), down, up, 0.5), by_engine)


def test_files_that_transformers_would_read(tmp_path: Path) -> None:
    """One named model.safetensors, else those of the index; others lie beside them at times (Mistral's consolidated ones)."""
    save_file({"other": torch.ones(1)}, tmp_path / "consolidated.safetensors")
    assert WeightFiles(str(tmp_path)).shapes == {}
    for number in (1, 2):
        save_file({f"of {number}": torch.ones(number)}, tmp_path / f"part-{number}.safetensors")
    index = {"weight_map": {f"of {number}": f"part-{number}.safetensors" for number in (1, 2)}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    assert WeightFiles(str(tmp_path)).shapes == {"of 1": (1,), "of 2": (2,)}
    save_file({"single": torch.ones(3)}, tmp_path / "model.safetensors")
    assert WeightFiles(str(tmp_path)).shapes == {"single": (3,)}


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    index = tmp_path / "model.safetensors.index.json"
    index.write_text('{"weight_map": ')
    with pytest.raises(DataError, match=r"index\.json cannot be read"):
        WeightFiles(str(tmp_path))
    index.write_text('{"weight_map": {"a": "gone.safetensors"}}')
    with pytest.raises(DataError, match=r"gone\.safetensors cannot be read"):
        WeightFiles(str(tmp_path))
    save_file(TENSORS, tmp_path / "gone.safetensors")
    files = WeightFiles(str(tmp_path))
    (tmp_path / "gone.safetensors").write_bytes(b"torn")
    with pytest.raises(DataError, match=r"gone\.safetensors cannot be read"):
        files.get("matrix")
