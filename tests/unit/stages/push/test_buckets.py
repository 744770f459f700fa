"""Both ends cut and lay alike, and the memory of a bucket is used again when nothing looks into it, not before."""

from __future__ import annotations

import gc
from dataclasses import replace

import pytest
import torch

from bcpg_cluster.errors import PushError
from bcpg_cluster.stages.push.buckets import KeptMemory, cut, lay, spec_bytes, unpack
from bcpg_cluster.stages.push.protocol import TensorSpec


def spec_of(name: str, tensor: torch.Tensor) -> TensorSpec:
    return TensorSpec(name, str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape))


def test_the_wire_carries_any_dtypes_in_bounded_buckets() -> None:
    torch.manual_seed(0)
    tensors = [torch.randn(3).bfloat16(), torch.randn(5, 7), torch.tensor(2.5, dtype=torch.float64), torch.arange(11)]
    tensors += [torch.randn(40, 10).t(), torch.zeros(0, 4), torch.tensor([True, False, True])]
    pairs = [(spec_of(str(i), tensor), tensor) for i, tensor in enumerate(tensors)]
    groups = list(cut(pairs, lambda pair: spec_bytes(pair[0]), 200))
    assert [pair for group in groups for pair in group] == pairs
    assert len(groups) > 2
    for group in groups:
        size = sum(spec_bytes(spec) for spec, _ in group)
        assert size <= 200 or len(group) == 1
        flat, end = torch.full((size,), 255, dtype=torch.uint8), 0
        for spec, tensor in group:
            end = lay(flat, end, spec, tensor)
        assert end == size
        for (_, sent), (_, got) in zip(group, unpack(flat, [spec for spec, _ in group]), strict=True):
            assert torch.equal(sent, got)


def test_a_tensor_is_rounded_where_a_shorter_dtype_was_announced() -> None:
    tensor = torch.randn(3, 5, generator=torch.Generator().manual_seed(1))
    spec = replace(spec_of("x", tensor), dtype="bfloat16")
    flat = torch.zeros(spec_bytes(spec), dtype=torch.uint8)
    lay(flat, 0, spec, tensor)
    ((_, got),) = unpack(flat, [spec])
    assert torch.equal(got, tensor.bfloat16())


def test_an_unknown_dtype_is_refused() -> None:
    with pytest.raises(PushError, match="unknown dtype"):
        spec_bytes(TensorSpec("x", "float31", (1,)))


def test_memory_is_used_again_when_no_tensor_looks_into_it() -> None:
    memory = KeptMemory(2048, 1024)
    first, second = memory.take(100), memory.take(1024)
    place = first.data_ptr()
    assert place != second.data_ptr()
    view = first[16:32].view(torch.float32).view(2, 2)
    first.fill_(7)
    del first
    gc.collect()
    third = memory.take(10)
    assert third.data_ptr() not in (place, second.data_ptr())  # a view is left of the first
    third.fill_(0)
    assert view.view(torch.uint8).unique().tolist() == [7]
    del view
    gc.collect()
    assert memory.take(1024).data_ptr() == place


def test_no_more_memory_is_kept_than_was_said() -> None:
    memory = KeptMemory(2048, 1024)
    taken = [memory.take(1024) for _ in range(3)]
    assert len({tensor.data_ptr() for tensor in taken}) == 3
    taken.clear()
    gc.collect()
    assert memory.idle_bytes == 2048
    large = memory.take(5000)
    assert large.numel() == 5000
    del large
    gc.collect()
    assert memory.idle_bytes == 2048


def test_the_smallest_buffer_that_is_large_enough_is_taken() -> None:
    """A parameter that is larger than a bucket has memory of its own, which the next one of its size uses again."""
    memory = KeptMemory(10_000, 1024)
    large, small = memory.take(3000), memory.take(10)
    places = large.data_ptr(), small.data_ptr()
    del large, small
    gc.collect()
    bucket, layer = memory.take(1024), memory.take(2000)
    assert (layer.data_ptr(), bucket.data_ptr()) == places
    assert memory.idle_bytes == 0
