"""The sending side of a push: rank 0 of the trainers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from vllm.distributed.utils import stateless_init_torch_distributed_process_group

from bcpg_cluster.cluster.node_address import listen_at
from bcpg_cluster.errors import PushError
from bcpg_cluster.stages.push.buckets import BUCKET_BYTES, dtype_of, lay, spec_bytes
from bcpg_cluster.stages.push.protocol import PushGroup, TensorSpec
from bcpg_cluster.stages.push.vllm_transfer import NCCL_BUFFER_BYTES, check_vllm_version, post, shut


class WeightSender:
    """Rank 0 of a push group. Needs no vLLM engine in its process, only vLLM's communication code.

    Backend ``gloo`` goes through main memory. Backend ``nccl`` hands over to vLLM's own packed producer; it needs GPUs
    and is **not run by this project's tests** (import-checked only).
    """

    def __init__(self) -> None:
        self._group: Any = None
        self._backend = ""
        self._outbox: _Outbox | None = None

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
        """Broadcast all tensors, packed, in the announced dtypes. Names, shapes and order must be those the receivers were told.

        The iterator may gather (ZeRO-3): each tensor is read before the next is asked for.
        """
        if self._group is None:
            raise PushError("no push group: join one before sending weights")
        checked = ((spec, _checked(spec, tensor)) for spec, tensor in tensors)
        if self._backend == "nccl":
            self._send_by_nccl(checked)
            return
        self._outbox = self._outbox or _Outbox(self._group, BUCKET_BYTES)
        for spec, tensor in checked:
            self._outbox.put(spec, tensor)
        self._outbox.flush()

    def _send_by_nccl(self, tensors: Iterator[tuple[TensorSpec, torch.Tensor]]) -> None:
        from vllm.distributed.weight_transfer.packed_tensor import packed_nccl_broadcast_producer

        packed_nccl_broadcast_producer(
            # A copy, because a gathered tensor is emptied when its gather ends and a buffer holds several.
            iterator=((spec.name, tensor.to(dtype_of(spec), copy=True)) for spec, tensor in tensors),
            group=self._group,
            src=0,
            post_iter_func=lambda item: item[1],
            buffer_size_bytes=NCCL_BUFFER_BYTES,
        )
        torch.accelerator.synchronize()  # its broadcasts are only enqueued; the trainer may step right after this

    def leave(self) -> None:
        """Drop the group. Safe to call when there is none."""
        if self._group is not None and self._backend == "gloo":
            shut(self._group)
        elif self._group is not None:
            self._group.destroy()
        self._group = self._outbox = None


class _Outbox:
    """Two kept buffers: one is filled while the other travels. Cuts like :func:`bcpg_cluster.stages.push.buckets.cut`."""

    def __init__(self, group: Any, bucket_bytes: int) -> None:
        self._group, self._bucket_bytes = group, bucket_bytes
        self._buffers = [torch.empty(bucket_bytes, dtype=torch.uint8) for _ in range(2)]
        self._works: list[Any] = [None, None]
        self._filling = self._filled = 0

    def put(self, spec: TensorSpec, tensor: torch.Tensor) -> None:
        """Lay a tensor into the bucket, which is sent before when it is full. One that is larger than a bucket is sent at once."""
        size = spec_bytes(spec)
        if self._filled + size > self._bucket_bytes:
            self._post()
        if size <= self._bucket_bytes:
            self._filled = lay(self._buffers[self._filling], self._filled, spec, tensor)
            return
        flat, num_values = tensor.reshape(-1), self._bucket_bytes // dtype_of(spec).itemsize
        for start in range(0, flat.numel(), num_values):
            piece = flat[start : start + num_values]
            self._filled = lay(self._buffers[self._filling], 0, replace(spec, shape=tuple(piece.shape)), piece)
            self._post()

    def flush(self) -> None:
        """Return when all that was put has been sent."""
        self._post()
        self._wait(1 - self._filling)

    def _post(self) -> None:
        """Send what the present buffer holds, and turn to the other one when it has been sent."""
        if self._filled:
            self._works[self._filling] = post(self._group, self._buffers[self._filling][: self._filled])
            self._filling, self._filled = 1 - self._filling, 0
        self._wait(self._filling)

    def _wait(self, buffer: int) -> None:
        work, self._works[buffer] = self._works[buffer], None
        if work is not None:
            work.wait()


def _checked(spec: TensorSpec, tensor: torch.Tensor) -> torch.Tensor:
    """The tensor, sure to be what was announced, or its float32 original: a mismatch would shift every byte after it, silently."""
    if tuple(tensor.shape) != spec.shape or tensor.dtype not in (dtype_of(spec), torch.float32):
        raise PushError(
            f"{spec.name} was announced as {spec.dtype}{list(spec.shape)}, but is {tensor.dtype}{list(tensor.shape)}"
        )
    return tensor.detach()
