"""Snapshots of tensors that a test has at hand."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from bcpg_cluster.stages.push.protocol import SnapshotDigests, TensorSpec
from bcpg_cluster.stages.push.snapshot import write_snapshot


def spec_of(name: str, tensor: torch.Tensor) -> TensorSpec:
    """What a file is told of a tensor: its own dtype and shape."""
    return TensorSpec(name, str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape))


def snapshot_of(
    path: Path | str, base: Path | str, tensors: Iterable[tuple[str, torch.Tensor]], **options: Any
) -> SnapshotDigests:
    """Write the tensors as they are, beside the companions of ``base``."""
    held = list(tensors)
    return write_snapshot(str(path), str(base), [spec_of(*each) for each in held], held, **options)
