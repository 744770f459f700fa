"""How tensors are cut into buckets and laid into bytes, known to both ends of the wire; and the memory that buckets travel in.

That memory is kept: with pages of 4 KiB, touching fresh memory is seven times as slow as writing into what is there.
"""

from __future__ import annotations

import math
import queue
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

import numpy as np
import torch

from bcpg_cluster.errors import PushError
from bcpg_cluster.stages.push.protocol import TensorSpec

BUCKET_BYTES = 32 * 2**20
ALIGNMENT = 16  # a view as float32 or float64 must start at a multiple of its item size, whatever came before it

T = TypeVar("T")


def dtype_of(spec: TensorSpec) -> torch.dtype:
    """The announced dtype. Raises :class:`PushError` for a name torch does not know."""
    dtype = getattr(torch, spec.dtype, None)
    if not isinstance(dtype, torch.dtype):
        raise PushError(f"{spec.name}: unknown dtype {spec.dtype!r} on the wire")
    return dtype


def spec_bytes(spec: TensorSpec) -> int:
    """Bytes of a tensor on the wire, padded so that the next one starts aligned."""
    size = math.prod(spec.shape) * dtype_of(spec).itemsize
    return -(-size // ALIGNMENT) * ALIGNMENT


def cut(items: Iterable[T], size_of: Callable[[T], int], limit: int) -> Iterator[list[T]]:
    """Group items in order, as many as fit into ``limit`` bytes; one that is larger than that comes alone.

    Sender and receiver both cut with this function, so the cuts need not travel.
    """
    group: list[T] = []
    filled = 0
    for item in items:
        size = size_of(item)
        if group and filled + size > limit:
            yield group
            group, filled = [], 0
        group.append(item)
        filled += size
    if group:
        yield group


def lay(flat: torch.Tensor, start: int, spec: TensorSpec, tensor: torch.Tensor) -> int:
    """Write a tensor into a buffer of bytes, in the announced dtype; where the next one starts."""
    dtype = dtype_of(spec)
    size = tensor.numel() * dtype.itemsize
    flat[start : start + size].view(dtype).view(spec.shape).copy_(tensor.detach())
    return start + spec_bytes(spec)


def unpack(flat: torch.Tensor, specs: Sequence[TensorSpec]) -> Iterator[tuple[str, torch.Tensor]]:
    """The tensors that :func:`lay` wrote, as views into the buffer."""
    start = 0
    for spec in specs:
        dtype = dtype_of(spec)
        size = math.prod(spec.shape) * dtype.itemsize
        yield spec.name, flat[start : start + size].view(dtype).view(spec.shape)
        start += spec_bytes(spec)


class KeptMemory:
    """Buffers that are used again as soon as no tensor looks into them any more.

    Args:
        num_kept: how many lie ready at most; what more is needed at a time is allocated, and freed.
        num_bytes: of each; a larger one is made for the occasion.
    """

    def __init__(self, num_kept: int, num_bytes: int = BUCKET_BYTES) -> None:
        self._num_bytes = num_bytes
        # Given back by the garbage collector, in any thread and at any moment: this queue's put may be interrupted by itself.
        self._free: queue.SimpleQueue[np.ndarray] = queue.SimpleQueue()
        self._num_kept = num_kept

    def take(self, num_bytes: int) -> torch.Tensor:
        """Bytes with any content, in main memory."""
        if num_bytes > self._num_bytes:
            return torch.empty(num_bytes, dtype=torch.uint8)
        try:
            memory = self._free.get_nowait()
        except queue.Empty:
            memory = np.empty(self._num_bytes, dtype=np.uint8)
        # torch holds on to this view of the memory until the last tensor over it is gone, and then lets go of it.
        view = memory[:num_bytes]
        weakref.finalize(view, self._give_back, memory).atexit = False
        return torch.from_numpy(view)

    def _give_back(self, memory: np.ndarray) -> None:
        if self._free.qsize() < self._num_kept:
            self._free.put(memory)
