"""The sending side of a push: rank 0 of the trainers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from vllm.distributed.utils import stateless_init_torch_distributed_process_group

from bcpg_cluster.cluster.node_address import listen_at
from bcpg_cluster.errors import PushError
from bcpg_cluster.stages.push.protocol import PushGroup, TensorSpec
from bcpg_cluster.stages.push.vllm_transfer import (
    BUFFER_BYTES,
    broadcast,
    check_vllm_version,
    cut,
    dtype_of,
    pack,
    shut,
    spec_bytes,
)


class WeightSender:
    """Rank 0 of a push group. Needs no vLLM engine in its process, only vLLM's communication code.

    Backend ``gloo`` goes through main memory. Backend ``nccl`` hands over to vLLM's own packed producer; it needs GPUs
    and is **not run by this project's tests** (import-checked only).
    """

    def __init__(self) -> None:
        self._group: Any = None
        self._backend = ""

    def join(self, group: PushGroup) -> None:
        """Open the rendezvous and wait for all receivers (the caller holds the deadline)."""
        check_vllm_version()
        self.leave()
        if group.backend == "gloo":
            self._group = stateless_init_torch_distributed_process_group(
                group.host,
                group.port,
                0,
                group.world_size,
                backend="gloo",
                listen_socket=listen_at(group.host, group.port),
            )
        elif group.backend == "nccl":
            from vllm.distributed.weight_transfer.nccl_common import trainer_init

            self._group = trainer_init(
                {"master_address": group.host, "master_port": group.port, "world_size": group.world_size}
            )
        else:
            raise PushError(f"no sender for weight-transfer backend {group.backend!r} (known: gloo, nccl)")
        self._backend = group.backend

    def send(self, tensors: Iterator[tuple[TensorSpec, torch.Tensor]]) -> None:
        """Broadcast all tensors, packed. Names, dtypes, shapes and order must be those the receivers were told.

        The iterator may gather (ZeRO-3): each tensor is read before the next is asked for.
        """
        if self._group is None:
            raise PushError("no push group: join one before sending weights")
        if self._backend == "nccl":
            from vllm.distributed.weight_transfer.packed_tensor import packed_nccl_broadcast_producer

            packed_nccl_broadcast_producer(
                # A clone, because a gathered tensor is emptied when its gather ends and a buffer holds several.
                iterator=((spec.name, tensor.detach().clone()) for spec, tensor in tensors),
                group=self._group,
                src=0,
                post_iter_func=lambda item: item[1],
                buffer_size_bytes=BUFFER_BYTES,
            )
            torch.accelerator.synchronize()  # its broadcasts are only enqueued; the trainer may step right after this
            return
        checked = (_checked(spec, tensor) for spec, tensor in tensors)
        for chunk in cut(checked, lambda item: spec_bytes(item[0]), BUFFER_BYTES):
            broadcast(self._group, pack(chunk), BUFFER_BYTES)

    def leave(self) -> None:
        """Drop the group. Safe to call when there is none."""
        if self._group is not None and self._backend == "gloo":
            shut(self._group)
        elif self._group is not None:
            self._group.destroy()
        self._group = None


def _checked(spec: TensorSpec, tensor: torch.Tensor) -> tuple[TensorSpec, torch.Tensor]:
    """The pair, on the CPU and sure to be what was announced: a mismatch would shift every byte after it, silently.

    A copy, because a gathered tensor is emptied when its gather ends and a chunk holds several.
    """
    if tuple(tensor.shape) != spec.shape or tensor.dtype != dtype_of(spec):
        raise PushError(
            f"{spec.name} was announced as {spec.dtype}{list(spec.shape)}, but is {tensor.dtype}{list(tensor.shape)}"
        )
    return spec, tensor.detach().to("cpu", copy=True)
