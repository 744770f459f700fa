"""What a parameter is on the wire: the dtype it travels in, and the digest that proves it there.

What lies on disk has a sha256 (:mod:`bcpg_cluster.stages.push.digest`): it may be altered by anyone, at any time. What travels is
proven against noise and mistakes alone, within seconds, between two processes of one run, and every second counts there. So the
wire has XXH3 with 128 bits, some 17 times as fast. Whoever writes a snapshot takes both of the same tensors.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import torch
import xxhash

from bcpg_cluster.stages.push.protocol import TensorSpec

_PIECE_BYTES = 32 * 2**20  # what comes from a GPU at a time
_DTYPES = {"half": "float16", "float16": "float16", "bfloat16": "bfloat16"}


def wire_dtype(engine_dtype: object) -> str:
    """The dtype that matrices are sent in to engines that compute in ``engine_dtype`` (vLLM's option).

    float32 where that is said to be anything but a shorter float: the engine rounds then, as it does with a snapshot from disk.
    """
    return _DTYPES.get(engine_dtype, "float32") if isinstance(engine_dtype, str) else "float32"


def sent_dtype(dtype: str, shape: Sequence[int]) -> str:
    """The dtype that a parameter of ``shape`` is sent in where matrices are sent in ``dtype``.

    Vectors stay in float32. They are a thousandth of the bytes, and the ones that some engines keep in float32 (biases of a
    router, decays of a state-space layer) are among them.
    """
    return dtype if len(shape) > 1 else "float32"


def specs_of(parameters: Iterable[tuple[str, torch.Tensor]], dtype: str) -> list[TensorSpec]:
    """The specs of named parameters where matrices are sent in ``dtype``, in order; nothing is gathered or copied."""
    # ZeRO-3 keeps the whole shape beside a parameter that is empty for now.
    shapes = ((name, tuple(getattr(parameter, "ds_shape", parameter.shape))) for name, parameter in parameters)
    return [TensorSpec(name, sent_dtype(dtype, shape), shape) for name, shape in shapes]


def as_sent(tensor: torch.Tensor, dtype: str) -> torch.Tensor:
    """A parameter as it is sent where matrices are sent in ``dtype``: itself, or rounded to the nearest as engines round."""
    return tensor.detach().to(getattr(torch, sent_dtype(dtype, tensor.shape)))


def wire_digest(tensor: torch.Tensor) -> str:
    """XXH3 hex, 128 bits, over dtype, shape and the contiguous bytes. A tensor on a GPU comes to the host piece by piece."""
    data = tensor.detach().contiguous()
    digest = xxhash.xxh3_128(f"{str(data.dtype).removeprefix('torch.')}{list(data.shape)}".encode())
    for piece in _on_the_host(data.reshape(-1).view(torch.uint8)):
        digest.update(piece.numpy().data)
    return digest.hexdigest()


def _on_the_host(flat: torch.Tensor) -> Iterator[torch.Tensor]:
    """Pieces of ``flat`` in main memory, each valid until the next is asked for."""
    if flat.device.type == "cpu":
        yield flat
        return
    staging = torch.empty(min(flat.numel(), _PIECE_BYTES), dtype=torch.uint8, pin_memory=flat.is_cuda)
    for start in range(0, flat.numel(), _PIECE_BYTES):
        piece = flat[start : start + _PIECE_BYTES]
        yield staging[: piece.numel()].copy_(piece)
