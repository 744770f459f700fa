"""Files written tensor by tensor are what safetensors reads, and, in its order of names, what it writes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from bcpg_cluster.stages.push.weight_file import write_weight_file
from tests.snapshots import spec_of


def write(path: Path, tensors: dict[str, torch.Tensor]) -> None:
    write_weight_file(path, [spec_of(*each) for each in tensors.items()], iter(tensors.values()))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_the_bytes_are_those_of_safetensors(dtype: torch.dtype, tmp_path: Path) -> None:
    draw = torch.Generator().manual_seed(0)
    shapes = {"a.bias": (7,), "a.weight": (7, 3), "b": (), "c.experts": (2, 3, 5), 'd.\u00e9"': (1,)}
    tensors = {name: torch.randn(shape, generator=draw).to(dtype) for name, shape in shapes.items()}
    write(tmp_path / "ours", tensors)
    save_file(tensors, tmp_path / "theirs", metadata={"format": "pt"})
    assert (tmp_path / "ours").read_bytes() == (tmp_path / "theirs").read_bytes()


def test_any_order_is_read(tmp_path: Path) -> None:
    tensors = {"z": torch.randn(3, 4), "a": torch.randn(5), "m": torch.randn(2, 2).t(), "h": torch.randn(3).bfloat16()}
    write(tmp_path / "file", tensors)
    found = load_file(tmp_path / "file")
    assert found.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert found[name].dtype is tensor.dtype and torch.equal(found[name], tensor)
    with safe_open(tmp_path / "file", framework="pt") as file:
        assert file.metadata() == {"format": "pt"}


def test_a_tensor_never_begins_between_its_values(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="wide would begin at byte 2, which float32 cannot"):
        write(tmp_path / "file", {"narrow": torch.zeros(1).bfloat16(), "wide": torch.zeros(1)})
    assert not (tmp_path / "file").exists()
