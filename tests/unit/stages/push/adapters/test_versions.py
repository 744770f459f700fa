"""versions.py and merge.py: ids of weights, what an engine can merge into, and the merge by hand."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from bcpg_cluster.errors import PushError
from bcpg_cluster.stages.push.adapters.merge import AdapterSet, merge_into, merged
from bcpg_cluster.stages.push.adapters.versions import MergeStart, weights_id

W = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])  # [out 3, in 2]
A = torch.tensor([[1.0, -1.0]])  # [rank 1, in 2]
B = torch.tensor([[1.0], [0.0], [2.0]])  # [out 3, rank 1]


def test_an_id_is_of_names_and_digests_in_any_order():
    one = weights_id({"a": "1", "b": "2"})
    assert one == weights_id({"b": "2", "a": "1"})
    assert len({one, weights_id({"a": "2", "b": "1"}), weights_id({"a": "1"}), weights_id({})}) == 4


def test_the_merge_by_hand():
    expected = torch.tensor([[1.5, 1.5], [3.0, 4.0], [6.0, 5.0]])
    assert torch.equal(merged(W, A, B, 0.5), expected)
    assert torch.equal(W, torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]))  # the file's own tensor stays
    short = merged(W.bfloat16(), A, B, 0.5)
    assert short.dtype is torch.float32 and torch.equal(short, expected)


def test_rounds_are_merged_one_after_the_other_and_the_rest_passes():
    tensors = {"m.q.lora_A.weight": A, "m.q.lora_B.weight": B}
    first, second = AdapterSet.of(tensors, 0.5), AdapterSet.of(tensors, 1.0)
    norm = torch.ones(2, dtype=torch.bfloat16)
    found = dict(merge_into([("m.q.weight", W), ("m.norm.weight", norm)], [first, second]))
    assert torch.equal(found["m.q.weight"], torch.tensor([[2.5, 0.5], [3.0, 4.0], [8.0, 3.0]]))
    assert found["m.norm.weight"] is norm


def test_an_adapter_of_no_weight_is_an_error():
    of = AdapterSet.of({"m.k.lora_A.weight": A, "m.k.lora_B.weight": B}, 1.0)
    with pytest.raises(PushError, match=r"1 adapters are of weights that the checkpoint lacks, e.g. m.k.weight"):
        list(merge_into([("m.q.weight", W)], [of]))


@pytest.mark.parametrize(
    "names", [[], ["m.q.lora_A.weight"], ["m.q.weight"], ["m.q.lora_B.weight", "m.k.lora_A.weight"]]
)
def test_half_an_adapter_is_an_error(names: list[str]):
    with pytest.raises(PushError, match="no adapters, or not whole ones"):
        AdapterSet.of(dict.fromkeys(names, A), 1.0)


def test_a_checkpoint_is_a_start_while_its_files_are_what_was_read(tmp_path: Path):
    assert not MergeStart.of(str(tmp_path / "nowhere"), "id").is_there
    (tmp_path / "pytorch_model.bin").write_bytes(b"12")
    assert not MergeStart.of(str(tmp_path), "id").is_there  # nothing that could be read tensor by tensor
    file = tmp_path / "model.safetensors"
    file.write_bytes(b"12")
    start = MergeStart.of(str(tmp_path), "id")
    assert start.is_there
    (tmp_path / "config.json").write_text("{}")
    assert start.is_there
    stat = file.stat()
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    assert not start.is_there
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert start.is_there
    other = tmp_path / "other"
    other.write_bytes(b"34")
    os.utime(other, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    other.rename(file)  # of the same size and time
    assert not start.is_there
    file.unlink()
    assert not start.is_there
