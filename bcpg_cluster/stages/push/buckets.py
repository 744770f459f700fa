"""How tensors are cut into buckets and laid into bytes, known to both ends of the wire; and the memory that buckets travel in.

That memory is kept: with pages of 4 KiB, touching fresh memory is seven times as slow as writing into what is there.
"""

from __future__ import annotations

import math
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

import numpy as np
import torch

from bcpg_cluster.errors import PushError
from bcpg_cluster.stages.push.protocol import TensorSpec

BUCKET_BYTES = 32 * 2**20
KEPT_BYTES = 512 * 2**20  # between two pushes, at a receiver
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
    _place(flat, start, spec).copy_(tensor.detach())
    return start + spec_bytes(spec)


def unpack(flat: torch.Tensor, specs: Sequence[TensorSpec]) -> Iterator[tuple[str, torch.Tensor]]:
    """The tensors that :func:`lay` wrote, as views into the buffer."""
    start = 0
    for spec in specs:
        yield spec.name, _place(flat, start, spec)
        start += spec_bytes(spec)


def _place(flat: torch.Tensor, start: int, spec: TensorSpec) -> torch.Tensor:
    """A tensor's place in a buffer of bytes, as a view of the announced dtype and shape."""
    dtype = dtype_of(spec)
    size = math.prod(spec.shape) * dtype.itemsize
    return flat[start : start + size].view(dtype).view(spec.shape)


class KeptMemory:
    """Buffers that are used again as soon as no tensor looks into them any more.

    Args:
        max_bytes: how much lies ready at most; what more is needed at a time is allocated, and freed.
        least_bytes: of a buffer.
    """

    def __init__(self, max_bytes: int = KEPT_BYTES, least_bytes: int = BUCKET_BYTES) -> None:
        self._max_bytes, self._least_bytes = max_bytes, least_bytes
        self._idle: list[np.ndarray] = []
        # Memory is given back by the garbage collector: in any thread, and also while this one holds the lock.
        self._lock = threading.RLock()

    @property
    def idle_bytes(self) -> int:
        """What lies ready."""
        return sum(memory.nbytes for memory in self._idle)

    def take(self, num_bytes: int) -> torch.Tensor:
        """Bytes with any content, in main memory."""
        with self._lock:
            fitting = [(memory.nbytes, place) for place, memory in enumerate(self._idle) if memory.nbytes >= num_bytes]
            memory = self._idle.pop(min(fitting)[1]) if fitting else None
        if memory is None:
            # numpy asks for huge pages, torch does not
            memory = np.empty(max(num_bytes, self._least_bytes), dtype=np.uint8)
        # torch holds on to this view of the memory until the last tensor over it is gone, and then lets go of it.
        view = memory[:num_bytes]
        weakref.finalize(view, self._give_back, memory).atexit = False
        return torch.from_numpy(view)

    def _give_back(self, memory: np.ndarray) -> None:
        with self._lock:
            if self.idle_bytes + memory.nbytes <= self._max_bytes:
                self._idle.append(memory)
