"""Files of weights in the safetensors format, written one tensor at a time: the header comes first, from names and shapes alone.
And opened for reading, where what fails is told as the system tells it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from bcpg_cluster.stages.push.buckets import dtype_of
from bcpg_cluster.stages.push.file_digests import raise_if_exhausted
from bcpg_cluster.stages.push.protocol import TensorSpec

_NAMES = {"float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16"}
_HEADER_ALIGNMENT = 8


def stored_bytes(spec: TensorSpec) -> int:
    """What a tensor takes in a file."""
    return math.prod(spec.shape) * dtype_of(spec).itemsize


def write_weight_file(path: Path, specs: Sequence[TensorSpec], tensors: Iterable[torch.Tensor]) -> None:
    """Write a file that safetensors reads. Each tensor is written before the next is asked for, and none is kept.

    Args:
        specs: what the file will hold, in order; floating-point dtypes.
        tensors: in main memory, as many and in the same order.

    Raises:
        ValueError: a name came twice, a tensor is not what its spec says, or would begin between two of its values.
        OSError: the disk does not take it.
    """
    header = _header(specs)
    with path.open("wb") as file:
        file.write(header)
        for spec, tensor in zip(specs, tensors, strict=True):
            if tuple(tensor.shape) != spec.shape or tensor.dtype is not dtype_of(spec):
                found = f"{str(tensor.dtype).removeprefix('torch.')}{list(tensor.shape)}"
                raise ValueError(f"{spec.name} is {found} instead of {spec.dtype}{list(spec.shape)}")
            file.write(tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().data)


def _header(specs: Sequence[TensorSpec]) -> bytes:
    """Length, names, dtypes, shapes and places, padded so that the tensors begin aligned."""
    content: dict[str, object] = {"__metadata__": {"format": "pt"}}
    start = 0
    for spec in specs:
        if spec.name in content:
            raise ValueError(f"parameter {spec.name!r} came twice")
        if start % dtype_of(spec).itemsize:
            raise ValueError(f"{spec.name} would begin at byte {start}, which {spec.dtype} cannot")
        end = start + stored_bytes(spec)
        content[spec.name] = {"dtype": _NAMES[spec.dtype], "shape": [*spec.shape], "data_offsets": [start, end]}
        start = end
    text = json.dumps(content, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % _HEADER_ALIGNMENT)
    return len(text).to_bytes(8, "little") + text


@contextmanager
def opened_weights(path: Path) -> Iterator[Any]:
    """A file's tensors, as ``safe_open`` gives them.

    Raises:
        SafetensorError: the file is torn.
        OSError: it cannot be opened, or the process lacks file handles or memory.
    """
    try:
        # safetensors opens a file twice. It says of every file that it cannot open that it is not there.
        with path.open("rb"), path.open("rb"):
            pass
        with safe_open(path, framework="pt") as tensors:
            yield tensors
    except Exception as error:
        raise_if_exhausted(error)
        raise
