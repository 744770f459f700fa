"""A checkpoint's safetensors, read one weight at a time, or a piece of one."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from bcpg_cluster.errors import DataError
from bcpg_cluster.stages.push.file_digests import raise_if_exhausted
from bcpg_cluster.stages.push.weight_file import opened_weights

FINER = frozenset({"F32", "F16"})
"""Dtypes that bfloat16 rounds, and float32 holds."""

_SINGLE, _INDEX = "model.safetensors", "model.safetensors.index.json"


class WeightFiles:
    """The weights of a checkpoint directory by name; none where it holds them otherwise (``.bin``).

    A file is mapped for as long as the weight is held that was read from it.

    Args:
        dtypes: those held in one of these alone, by safetensors' names of them; ``None`` takes all.

    Attributes:
        shapes: by name.

    Raises:
        DataError: a file is torn or not there.
        OSError: the process lacks file handles or memory.
    """

    def __init__(self, model_path: str, dtypes: frozenset[str] | None = None) -> None:
        self.shapes: dict[str, tuple[int, ...]] = {}
        self._files: dict[str, Path] = {}
        for file in _files(Path(model_path)):
            with _opened(file) as tensors:
                for name in tensors.keys():  # noqa: SIM118 (not a dict: it has no __iter__)
                    held = tensors.get_slice(name)
                    if dtypes is None or held.get_dtype() in dtypes:
                        self.shapes[name], self._files[name] = tuple(held.get_shape()), file

    def get(self, name: str) -> Tensor | None:
        """A weight as it is held; ``None`` when there is none of this name."""
        if name not in self._files:
            return None
        with _opened(self._files[name]) as tensors:
            tensor: Tensor = tensors.get_tensor(name)
        return tensor

    def piece(self, name: str, start: int, length: int) -> Tensor:
        """[length] values of a weight in float32, from number ``start`` of it flattened; 0 beyond its end."""
        piece, shape = torch.zeros(length), self.shapes[name]
        end = min(start + length, math.prod(shape))
        if start >= end:
            return piece
        if not shape:
            return piece.copy_(self.get(name))  # type: ignore[arg-type]
        row = math.prod(shape[1:])  # values of one
        with _opened(self._files[name]) as tensors:
            rows: Tensor = tensors.get_slice(name)[start // row : -(-end // row)]
            piece[: end - start] = rows.reshape(-1)[start % row :][: end - start]
        return piece


def _files(path: Path) -> list[Path]:
    """Those that transformers would read."""
    if (path / _SINGLE).is_file():
        return [path / _SINGLE]
    try:
        index = json.loads((path / _INDEX).read_text())
        return [path / name for name in sorted(set(index["weight_map"].values()))]
    except FileNotFoundError:
        return []
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise_if_exhausted(error)
        raise _unread(path / _INDEX, error) from error


@contextmanager
def _opened(file: Path) -> Iterator[Any]:
    try:
        with opened_weights(file) as tensors:
            yield tensors
    except (SafetensorError, OSError) as error:
        raise_if_exhausted(error)
        raise _unread(file, error) from error


def _unread(file: Path, error: Exception) -> DataError:
    return DataError(
        f"{file} cannot be read: {error}",
        rule="a checkpoint's weights are whole safetensors files",
        remedy="copy or download the model again",
    )
